"""LLMEraser: what an adapter would be without some samples, or with corrected ones, by one linear solve.

The objective over the training samples z, with their T_z answer tokens' NLLs, is one of two means (``Solving.mean``)::

    L = sum_z sum_t NLL_zt / sum_z T_z    (tokens: what adaptinf.tuning.fit and transformers' Trainer minimise)
    L = 1/n sum_z 1/T_z sum_t NLL_zt      (samples)

in evaluation mode (no dropout), over the parameters of the model that ask for a gradient; the adapter is taken to be at
its minimum, with weight decay or without. No sample counts more for the batch it is computed in (the released code adds
up means of batches).

Two forms of the edit. ``newton``: one step of Newton's method on the objective of the edited samples, L' instead of L,

    delta = - (H' + damping I)^-1 [grad L' - grad L]

(grad L is 0, or cancels the weight decay's). ``paper``: LLMEraser's linear response, with H of the samples as trained
and, where samples are removed, only their own part of grad L. The two agree for small changes of an objective without
weight decay; of others ``newton`` is closer to retraining, at the same cost but for one more gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from adaptinf.data import Sample
from adaptinf.errors import (
    AdapterMismatchError,
    ConfigError,
    DuplicateIdError,
    EmptyTaskError,
    NonFiniteError,
    UnsupportedModelError,
)
from adaptinf.influence.ihvp import Product, Solution, cg, exact, flat, hvp, minibatch
from adaptinf.models import Encoded, LanguageModel, save_adapter, trainable_parameters
from adaptinf.models.collate import IGNORED
from adaptinf.progress import progress


@dataclass(frozen=True)
class Solving:
    """Which system ``(H + damping I) delta = b`` an edit solves, and how.

    ``damping`` is the weight decay of the objective, or what makes H positive definite. ``form`` and ``mean``: see the
    module. ``method``: ``cg`` takes one pass over the samples an iteration, ``minibatch`` two an epoch, ``exact`` one a
    parameter, for some thousand of them. ``tolerance`` is the relative residual of the first two, ``max_iterations``
    bounds their iterations or epochs. ``batch_size`` bounds memory alone: the graph of one batch's gradient, or, with
    ``keep_graphs``, those of all batches. Every iteration but the first then costs a second backward pass alone, no
    forward and no first one: for an adapter of the last layers a small part of a pass.
    """

    damping: float
    form: Literal["newton", "paper"] = "newton"
    mean: Literal["tokens", "samples"] = "tokens"
    method: Literal["cg", "minibatch", "exact"] = "cg"
    tolerance: float = 1e-3
    max_iterations: int = 100
    batch_size: int = 8
    keep_graphs: bool = False

    def __post_init__(self) -> None:
        if self.form not in ("newton", "paper"):
            raise ConfigError("is no form of an edit", item=f"form={self.form!r}", remedy="choose newton or paper")
        if self.mean not in ("tokens", "samples"):
            raise ConfigError("is no mean", item=f"mean={self.mean!r}", remedy="choose tokens or samples")
        if self.method not in ("cg", "minibatch", "exact"):
            raise ConfigError("is no solver", item=f"method={self.method!r}", remedy="choose cg, minibatch or exact")
        if self.batch_size < 1:
            raise ConfigError("must be positive", item=f"batch_size={self.batch_size}")


@dataclass(frozen=True)
class Edit:
    """``delta``: what to add to each parameter, by name. ``iterations`` and ``residual`` of the solver (0 for
    ``exact``); ``n_edited`` training samples were removed or changed."""

    delta: dict[str, Tensor]
    iterations: int
    residual: float
    n_edited: int

    @property
    def norm(self) -> float:
        """L2 norm over all parameters."""
        return float(torch.stack([part.double().square().sum() for part in self.delta.values()]).sum().sqrt())


def remove(lm: LanguageModel, removed: Sequence[Sample], retained: Sequence[Sample], solving: Solving) -> Edit:
    """The edit that forgets the samples ``removed``, which with ``retained`` are all that were trained on.

    ``b = grad L(all) - grad L(retained)``, and H over ``retained`` (``newton``); ``b`` = the part of ``removed`` in
    ``grad L(all)``, and H over all (``paper``).

    The model is not changed: see :func:`apply`. Raises ConfigError, EmptyTaskError or DuplicateIdError for what is
    asked, UnsupportedModelError where the model has no second derivatives in float32, NonFiniteError naming samples,
    SolverError with the curvature or residual, and the encoder's errors.

    Source: Ding et al. 2025 (ICLR, arXiv:2412.00383), with H + damping I solved to a tolerance and without the released
    code's factor of two, sums of batch means, and dropout; Koh and Liang 2017 for the influence function.
    """
    _check_samples(removed, retained)
    if not retained and solving.form == "newton":
        raise EmptyTaskError("nothing is retained", remedy="take the adapter away instead (remove_lora)")
    return _edit(lm, removed, [], retained, solving)


def correct_response(
    lm: LanguageModel,
    before: Sequence[Sample],
    after: Sequence[Sample],
    others: Sequence[Sample],
    solving: Solving,
) -> Edit:
    """The edit that learns the answers of ``after`` in place of those of ``before``; ``others`` were trained on too.

    ``b = grad L(before, others) - grad L(after, others)``, and H over ``after`` and ``others`` (``newton``); the pairs'
    part of that, as if new answers had as many tokens, and H over ``before`` and ``others`` (``paper``). Pairs have the
    same id and conversation, or ConfigError is raised; the rest as :func:`remove`.
    """
    _check_pairs(before, after, "messages")
    _check_samples(before, others)
    return _edit(lm, before, after, others, solving)


def modify_query(
    lm: LanguageModel,
    before: Sequence[Sample],
    after: Sequence[Sample],
    others: Sequence[Sample],
    solving: Solving,
) -> Edit:
    """As :func:`correct_response`, where the conversations before the answers changed and the answers did not."""
    _check_pairs(before, after, "answer")
    _check_samples(before, others)
    return _edit(lm, before, after, others, solving)


def apply(lm: LanguageModel, edit: Edit, directory: Path | None = None) -> None:
    """Add the edit to ``lm``'s parameters in place, and write the edited adapter to ``directory`` where one is given.

    Raises AdapterMismatchError where the edit was made for other parameters; nothing is then changed.
    """
    parameters = dict(trainable_parameters(lm))
    shapes = {name: tuple(part.shape) for name, part in edit.delta.items()}
    if shapes != {name: tuple(parameter.shape) for name, parameter in parameters.items()}:
        raise AdapterMismatchError(
            "its parameters are not those of the edit", item=lm.name, remedy="apply it to the adapter it was made for"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter += edit.delta[name].to(parameter.device, parameter.dtype)
    if directory is not None:
        save_adapter(lm, directory)


@dataclass(frozen=True)
class _Samples:
    """Samples in batches of like lengths, with the sums of their losses and of what these are to be divided by."""

    lm: LanguageModel
    encoded: list[Encoded]
    solving: Solving

    @property
    def batches(self) -> list[list[Encoded]]:
        size = self.solving.batch_size
        ordered = sorted(self.encoded, key=lambda one: (len(one.input_ids), one.id))
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def weight(self, batch: Sequence[Encoded]) -> int:
        """Answer tokens, or samples."""
        return sum(map(_answer_tokens, batch)) if self.solving.mean == "tokens" else len(batch)

    def loss(self, batch: Sequence[Encoded]) -> Tensor:
        """The sum over the batch's samples of the sum, or mean, of the NLL of their answer tokens."""
        tokens = self.lm.answer_nll(self.lm.encoder.collate(batch), reduction="none")
        if self.solving.mean == "samples":
            counts = torch.tensor([_answer_tokens(one) for one in batch])
            tokens = tokens / counts.repeat_interleave(counts).to(tokens.device)
        loss = tokens.sum()
        if not bool(torch.isfinite(loss)):
            ids = [one.id for one in batch]
            raise NonFiniteError(f"one of {', '.join(ids)} has a loss that is not finite", item=ids[0])
        return loss

    def gradient(self, parameters: Sequence[torch.nn.Parameter]) -> Tensor:
        """[d], the sum's, float64."""
        total = torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
        total = total.to(parameters[0].device)
        for batch in progress(self.batches, "gradients", unit="batch"):
            parts = torch.autograd.grad(self.loss(batch), parameters, materialize_grads=True)
            total += flat(parts).double()
        return total

    def products(self, parameters: Sequence[torch.nn.Parameter]) -> tuple[list[Product], list[float]]:
        """Of each batch the product with the Hessian of its mean loss, and its share of the weight."""
        whole = self.weight(self.encoded)
        keep = self.solving.keep_graphs
        found = [hvp(partial(self._mean, batch), parameters, keep_graph=keep) for batch in self.batches]
        return found, [self.weight(batch) / whole for batch in self.batches]

    def _mean(self, batch: Sequence[Encoded]) -> Tensor:
        return self.loss(batch) / self.weight(batch)


def _answer_tokens(one: Encoded) -> int:
    return int((one.labels[1:] != IGNORED).sum())


def _edit(
    lm: LanguageModel, gone: Sequence[Sample], come: Sequence[Sample], kept: Sequence[Sample], solving: Solving
) -> Edit:
    """From training on ``gone`` and ``kept`` to training on ``come`` and ``kept``."""
    named = trainable_parameters(lm)
    _check_model(lm, named)
    parameters = [parameter for _, parameter in named]
    old, new, same = (_Samples(lm, lm.encoder.encode_all(part)[0], solving) for part in (gone, come, kept))
    before = 1 / old.weight([*old.encoded, *same.encoded])
    if solving.form == "newton":
        after = 1 / new.weight([*new.encoded, *same.encoded])
        terms, curved = [(old, before), (new, -after), (same, before - after)], new
    else:
        terms, curved = [(old, before), (new, -before)], old
    with _twice_differentiable(lm):
        slopes = [factor * part.gradient(parameters) for part, factor in terms if part.encoded and factor]
        right = torch.stack(slopes).sum(0).to(parameters[0].dtype)
        products, shares = _Samples(lm, [*curved.encoded, *same.encoded], solving).products(parameters)

        def whole(rows: Tensor) -> Tensor:
            total = torch.zeros_like(rows)
            parts = zip(products, shares, strict=True)
            for product, share in progress(parts, "curvature", total=len(products), unit="batch"):
                total += share * product(rows)
            return total

        if solving.method == "exact":
            found = Solution(exact(whole, right, damping=solving.damping), 0, 0.0)
        elif solving.method == "cg":
            limits = {"tolerance": solving.tolerance, "max_iterations": solving.max_iterations}
            found = cg(whole, right, damping=solving.damping, **limits)
        else:
            limits = {"tolerance": solving.tolerance, "max_epochs": solving.max_iterations}
            found = minibatch(products, right, damping=solving.damping, weights=shares, **limits)
    parts = found.x.split([parameter.numel() for parameter in parameters])
    delta = {name: part.reshape(parameter.shape) for (name, parameter), part in zip(named, parts, strict=True)}
    return Edit(delta, found.iterations, found.residual, len(gone))


@contextmanager
def _twice_differentiable(lm: LanguageModel) -> Iterator[None]:
    """Dropout off, and attention by matrix products: its fused forms have no second derivative."""
    training = {module: module.training for module in lm.model.modules()}
    lm.model.eval()
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, was in training.items():
            module.training = was


def _check_model(lm: LanguageModel, named: Sequence[tuple[str, torch.nn.Parameter]]) -> None:
    if not named:
        raise ConfigError("no parameter asks for a gradient", item=lm.name, remedy="add_lora or load_adapter first")
    dtypes = {parameter.dtype for _, parameter in named} | {lm.dtype}
    if not dtypes <= {torch.float32, torch.float64} or len({parameter.dtype for _, parameter in named}) > 1:
        found = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise UnsupportedModelError(
            f"is in {found}; second derivatives need one dtype of float32 or float64",
            item=lm.name,
            remedy="load it with model.dtype float32",
        )
    attention = str(lm.base.config._attn_implementation)  # noqa: SLF001 - transformers has no other name
    if attention not in ("sdpa", "eager"):
        raise UnsupportedModelError(
            f"its attention ({attention}) has no second derivative", item=lm.name, remedy="load it with sdpa or eager"
        )


def _check_samples(edited: Sequence[Sample], others: Sequence[Sample]) -> None:
    if not edited:
        raise EmptyTaskError("there is no sample to remove or change", remedy="name at least one")
    seen: set[str] = set()
    for sample in [*edited, *others]:
        if sample.id in seen:
            raise DuplicateIdError(
                "is among the training samples twice", item=sample.id, remedy="leave edited ones out of the others"
            )
        seen.add(sample.id)


def _check_pairs(before: Sequence[Sample], after: Sequence[Sample], same: Literal["messages", "answer"]) -> None:
    if len(before) != len(after):
        raise ConfigError(f"{len(before)} samples before and {len(after)} after", item="after", remedy="give pairs")
    for old, new in zip(before, after, strict=True):
        if old.id != new.id:
            raise ConfigError(f"stands beside {new.id!r}", item=old.id, remedy="give both in one order of ids")
        if getattr(old, same) != getattr(new, same):
            what = "conversation" if same == "messages" else "answer"
            raise ConfigError(
                f"its {what} changed as well",
                item=old.id,
                remedy="correct_response changes answers alone, modify_query conversations alone",
            )
