"""LLMEraser: what an adapter would be without some samples, or with corrected ones, by one linear solve.

The objective is the mean over the n training samples of the mean NLL of their answer tokens, in evaluation mode (no
dropout), over the parameters of the model that ask for a gradient; the adapter is taken to be at its minimum, with
weight decay or without. A sample counts ``1/n``, whatever its answer's length and whatever batch it is computed in (the
released code adds up means of batches).

Two forms of the edit. ``newton``: one step of Newton's method on the objective of the edited samples, L' instead of L,

    delta = - (H' + damping I)^-1 [grad L' - grad L]

(grad L is 0, or cancels the weight decay's). ``paper``: LLMEraser's linear response, with H of the samples as trained
and, where samples are removed, only their own sum of gradients over n. The two agree for small changes of an objective
without weight decay; of others ``newton`` is closer to retraining, at the same cost but for one more gradient.
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
from adaptinf.progress import progress


@dataclass(frozen=True)
class Solving:
    """Which system ``(H + damping I) delta = b`` an edit solves, and how.

    ``damping`` is the weight decay of the objective, or what makes H positive definite. ``form``: see the module.
    ``method``: ``cg`` takes one pass over the samples an iteration, ``minibatch`` two an epoch, ``exact`` one a
    parameter, for some thousand of them. ``tolerance`` is the relative residual of the first two, ``max_iterations``
    bounds their iterations or epochs. ``batch_size`` bounds memory alone: the graph of one batch's gradient.
    """

    damping: float
    form: Literal["newton", "paper"] = "newton"
    method: Literal["cg", "minibatch", "exact"] = "cg"
    tolerance: float = 1e-3
    max_iterations: int = 100
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.form not in ("newton", "paper"):
            raise ConfigError("is no form of an edit", item=f"form={self.form!r}", remedy="choose newton or paper")
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
    """The edit that forgets the m samples ``removed``, which with ``retained`` are all n that were trained on.

    ``b = 1/n sum_all grad L(z) - 1/(n - m) sum_retained grad L(z)``, and H over ``retained`` (``newton``);
    ``b = + 1/n sum_removed grad L(z)``, and H over all (``paper``).

    The model is not changed: see :func:`apply`. Raises ConfigError, EmptyTaskError or DuplicateIdError for what is
    asked, UnsupportedModelError where the model has no second derivatives in float32, NonFiniteError naming samples,
    SolverError with the curvature or residual, and the encoder's errors.

    Source: Ding et al. 2025 (ICLR, arXiv:2412.00383), with H + damping I solved to a tolerance and without the released
    code's factor of two, sums of batch means, and dropout; Koh and Liang 2017 for the influence function.
    """
    n = len(removed) + len(retained)
    _check_samples(removed, retained)
    if solving.form == "paper":
        return _edit(lm, [(removed, 1 / n)], [*removed, *retained], solving, len(removed))
    if not retained:
        raise EmptyTaskError("nothing is retained", remedy="take the adapter away instead (remove_lora)")
    return _edit(lm, [(removed, 1 / n), (retained, 1 / n - 1 / len(retained))], retained, solving, len(removed))


def correct_response(
    lm: LanguageModel,
    before: Sequence[Sample],
    after: Sequence[Sample],
    others: Sequence[Sample],
    solving: Solving,
) -> Edit:
    """The edit that learns the answers of ``after`` in place of those of ``before``; ``others`` were trained on too.

    ``b = - 1/n sum [grad L(z') - grad L(z)]`` over the pairs (z, z') of ``before`` and ``after``,
    n = len(before) + len(others); H over ``after`` and ``others`` (``newton``) or ``before`` and ``others``
    (``paper``). Pairs have the same id and conversation, or ConfigError is raised; the rest as :func:`remove`.
    """
    _check_pairs(before, after, "messages")
    return _exchange(lm, before, after, others, solving)


def modify_query(
    lm: LanguageModel,
    before: Sequence[Sample],
    after: Sequence[Sample],
    others: Sequence[Sample],
    solving: Solving,
) -> Edit:
    """As :func:`correct_response`, where the conversations before the answers changed and the answers did not."""
    _check_pairs(before, after, "answer")
    return _exchange(lm, before, after, others, solving)


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
class _Objective:
    """The sum of the samples' losses, in batches of like lengths."""

    lm: LanguageModel
    batches: list[list[Encoded]]
    parameters: list[torch.nn.Parameter]

    @classmethod
    def of(cls, lm: LanguageModel, samples: Sequence[Sample], batch_size: int) -> _Objective:
        encoded, _ = lm.encoder.encode_all(samples)
        encoded.sort(key=lambda one: (len(one.input_ids), one.id))
        batches = [encoded[start : start + batch_size] for start in range(0, len(encoded), batch_size)]
        return cls(lm, batches, [parameter for _, parameter in trainable_parameters(lm)])

    def loss(self, batch: Sequence[Encoded]) -> Tensor:
        """The sum over the batch's samples of the mean NLL of their answer tokens."""
        inputs = self.lm.encoder.collate(batch)
        counts = (inputs["labels"][:, 1:] != -100).sum(1)
        tokens = self.lm.answer_nll(inputs, reduction="none")
        loss = (tokens / counts.repeat_interleave(counts).to(tokens.device)).sum()
        if not bool(torch.isfinite(loss)):
            ids = [one.id for one in batch]
            raise NonFiniteError(f"one of {', '.join(ids)} has a loss that is not finite", item=ids[0])
        return loss

    def gradient(self) -> Tensor:
        """[d], the sum's."""
        total = torch.zeros(sum(parameter.numel() for parameter in self.parameters), dtype=torch.float64)
        total = total.to(self.parameters[0].device)
        for batch in progress(self.batches, "gradients", unit="batch"):
            parts = torch.autograd.grad(self.loss(batch), self.parameters, materialize_grads=True)
            total += flat(parts).double()
        return total

    def products(self) -> tuple[list[Product], list[float]]:
        """Of each batch the product with the Hessian of its mean loss, and its share of the samples."""
        count = sum(len(batch) for batch in self.batches)
        found = [hvp(partial(self._mean, batch), self.parameters) for batch in self.batches]
        return found, [len(batch) / count for batch in self.batches]

    def _mean(self, batch: Sequence[Encoded]) -> Tensor:
        return self.loss(batch) / len(batch)


def _exchange(
    lm: LanguageModel, before: Sequence[Sample], after: Sequence[Sample], others: Sequence[Sample], solving: Solving
) -> Edit:
    n = len(before) + len(others)
    _check_samples(before, others)
    curved = [*(after if solving.form == "newton" else before), *others]
    return _edit(lm, [(before, 1 / n), (after, -1 / n)], curved, solving, len(before))


def _edit(
    lm: LanguageModel,
    terms: Sequence[tuple[Sequence[Sample], float]],
    curved: Sequence[Sample],
    solving: Solving,
    n_edited: int,
) -> Edit:
    """``(H + damping I)^-1 sum_terms weight sum_z grad L(z)``, H over ``curved``."""
    named = trainable_parameters(lm)
    _check_model(lm, named)
    with _twice_differentiable(lm):
        slopes = [weight * _Objective.of(lm, samples, solving.batch_size).gradient() for samples, weight in terms]
        right = torch.stack(slopes).sum(0).to(named[0][1].dtype)
        products, shares = _Objective.of(lm, curved, solving.batch_size).products()

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
    parts = found.x.split([parameter.numel() for _, parameter in named])
    delta = {name: part.reshape(parameter.shape) for (name, parameter), part in zip(named, parts, strict=True)}
    return Edit(delta, found.iterations, found.residual, n_edited)


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
