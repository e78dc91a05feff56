"""One pass over a model: gradient sketches, token scores and hidden means of every sample, from the same forward.

Per batch: forward up to the head's input; ``token_scores`` on the answer tokens gives NLL, entropy, EL2N and the
gradient that flows back; backward stops at the lowest target layer and forms no weight gradient; taps sketch each
target's per-sample gradient. Samples with pictures run a second, forward-only pass without them (Image Grounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from adaptinf_kernels import Sketch, token_scores
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptinf.capture.features import Features
from adaptinf.capture.layout import Layout, batches, layout, segment_sum
from adaptinf.capture.tap import GradientSink, capture
from adaptinf.capture.targets import Layers, Parameters, find_targets
from adaptinf.data import Sample
from adaptinf.errors import ConfigError, EmptyTaskError, NonFiniteError, SampleTooLongError, UnsupportedModelError
from adaptinf.models import Encoded, LanguageModel, wrap
from adaptinf.progress import progress

SCORES = ("nll", "mean_exp_nll", "entropy", "entropy_all", "el2n", "grad_norm", "nll_without_image")
"""Names for ``scores=``; ``n_tokens``, ``n_answer_tokens`` and ``n_images`` always come along."""

OnNonFinite = Literal["raise", "drop", "zero"]


def extract(
    model: LanguageModel | PreTrainedModel,
    dataset: Sequence[Sample],
    *,
    processor: Any = None,
    sketch: Sketch | None = None,
    layers: Layers = "middle",
    parameters: Parameters = "lora",
    scores: Sequence[str] = ("nll", "entropy", "el2n", "nll_without_image"),
    hidden: int | Literal["last"] | None = "last",
    image_grounding: Literal["remove", "zero"] = "remove",
    loss: Literal["mean_answer_tokens", "sum"] = "mean_answer_tokens",
    batch_tokens: int = 4096,
    packed: bool = False,
    on_nonfinite: OnNonFinite = "raise",
    on_error: Literal["raise", "drop"] = "raise",
    description: str = "features",
) -> Features:
    """Features of every sample of ``dataset``, in its order.

    The features of a sample are those of the loss ``1/|T| sum_T NLL`` (``mean_answer_tokens``) or ``sum_T NLL`` over
    its answer tokens T, with dropout off; they do not depend on the batch beyond rounding. ``sketch`` [N, k] is
    ``S vec(g)`` with g the gradient over ``parameters`` of ``layers``; None runs no backward. ``hidden`` [N, d] is the
    mean over all tokens of the head's input (``last``) or of a decoder layer's output. Score formulas:
    docs/architecture.md.

    ``model`` is a :class:`LanguageModel`, or a transformers model with its ``processor`` (or tokenizer).
    ``batch_tokens`` bounds the cells of a padded batch; a batch that does not fit in GPU memory is halved.
    ``packed`` puts a batch into one row without padding (models with variable-length attention).

    Raises NonFiniteError (``on_nonfinite=raise``), EmptyAnswerError, SampleTooLongError or LabelError
    (``on_error=raise``), each with the sample's id; otherwise the sample is dropped and listed in ``dropped``, or its
    non-finite numbers become zero and it is listed in ``zeroed``.

    Source: Adapt-inf section 3 (features of LoRA gradients, Image Grounding), data_diet (EL2N, GraNd).
    """
    lm = model if isinstance(model, LanguageModel) else wrap(model, processor)
    for name in scores:
        if name not in SCORES:
            raise ConfigError("is no score", item=name, remedy=f"choose from {', '.join(SCORES)}")
    if packed and not lm.supports_packing:
        raise UnsupportedModelError(
            "cannot tell packed samples apart", item=lm.name, remedy="extract with packed=False (padded batches)"
        )
    if not dataset:
        raise EmptyTaskError(
            "there is no sample to extract features from", remedy="check the readers' limits and filters"
        )
    encoded, dropped = lm.encoder.encode_all(dataset, on_error=on_error)
    if not encoded:
        raise EmptyTaskError(
            f"all {len(dataset)} samples were dropped: {dropped[0][1]}", remedy="see the reasons given"
        )
    wants_norms = "grad_norm" in scores
    if wants_norms and sketch is None:
        sketch = Sketch(kind="sjlt", k=64, nonzeros=1)
    targets = find_targets(lm, layers, parameters) if sketch is not None else {}
    identity = {
        "model": lm.identity(),
        "sketch": sketch.identity if sketch is not None else None,
        "targets": sorted(targets),
        "hidden": hidden,
        "loss": loss,
        "image_grounding": image_grounding if "nll_without_image" in scores else None,
    }
    run = _Pass(lm, targets, sketch, tuple(scores), hidden, loss, packed)
    with _frozen(lm.model), run.tapped():
        rows = _run_all(run, encoded, batch_tokens, description)
    flops = run.flops
    if "nll_without_image" in scores:
        flops += _add_without_image(lm, dataset, encoded, rows, image_grounding, batch_tokens, packed)
    rows, zeroed, lost = _check_finite(encoded, rows, on_nonfinite)
    keep = [i for i in range(len(encoded)) if encoded[i].id not in lost]
    if not keep:
        raise NonFiniteError(
            f"all {len(encoded)} samples gave non-finite numbers", remedy="check the model's weights and dtype"
        )
    stacked = {name: values[keep] for name, values in rows.items()}
    return Features(
        ids=[encoded[i].id for i in keep],
        sketch=stacked.pop("sketch", None),
        hidden=stacked.pop("hidden", None),
        scores=stacked,
        identity=identity,
        dropped=[*dropped, *((id, "non-finite features") for id in lost)],
        zeroed=zeroed,
        flops=flops,
    )


@dataclass
class _Pass:
    """The forward (and backward) of one batch, and what is kept of it."""

    lm: LanguageModel
    targets: dict[str, nn.Module]
    sketch: Sketch | None
    scores: tuple[str, ...]
    hidden: int | str | None
    loss: str
    packed: bool
    flops: float = 0.0
    sink: GradientSink | None = None
    layer_output: Tensor | None = None

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Tap the targets and, for a numbered hidden layer, that layer's output, as long as the context lasts."""
        with ExitStack() as stack:
            if self.sketch is not None:
                norms = "grad_norm" in self.scores
                self.sink = stack.enter_context(capture(self.targets, self.sketch, norms=norms))
            if isinstance(self.hidden, int):
                _, layer = self.lm.decoder_layers[self.hidden]
                stack.callback(layer.register_forward_hook(self._keep_layer_output).remove)
            yield

    def _keep_layer_output(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.layer_output = (output[0] if isinstance(output, tuple) else output).detach()

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, np.ndarray]:
        device, lm = self.lm.device, self.lm
        where = layout(batch, packed=self.packed, device=device)
        inputs = lm.encoder.collate(batch, padding_side="right", packed=self.packed)
        inputs = {name: value.to(device) for name, value in inputs.items() if name != "labels"}
        backward = self.sink is not None
        if self.sink is not None:
            self.sink.begin(where.tokens, where.cu_seqlens)
        with torch.set_grad_enabled(backward):
            states = (lm.hidden_states(inputs) if lm.head is not None else lm.logits(inputs)).flatten(0, 1)
            answers = states.index_select(0, where.predictors)
        weight, bias = (lm.head.weight, lm.head.bias) if lm.head is not None else (None, None)
        token = token_scores(answers.detach(), weight, where.targets, bias=bias, grad=backward)
        if backward:
            assert token.grad_hidden is not None  # asked for above
            scale = torch.ones_like(where.answer_lengths) if self.loss == "sum" else where.answer_lengths
            per_token = (1.0 / scale.float()).repeat_interleave(where.answer_lengths)
            answers.backward((token.grad_hidden * per_token[:, None]).to(answers.dtype))
        lengths = [len(encoded.input_ids) for encoded in batch]
        pixels = inputs["pixel_values"].numel() if "pixel_values" in inputs else 0
        self.flops += lm.flops(lengths, backward_layers=self._depth() if backward else 0, pixels=pixels)
        return self._collect(batch, where, states.detach(), token, weight, bias)

    def _depth(self) -> int:
        """How many decoder layers the backward pass goes through: from the last down to the lowest target."""
        names = [name for name, _ in self.lm.decoder_layers]
        lowest = min(i for i, layer in enumerate(names) if any(t.startswith(layer + ".") for t in self.targets))
        return len(names) - lowest

    def _collect(
        self,
        batch: Sequence[Encoded],
        where: Layout,
        states: Tensor,
        token: Any,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> dict[str, np.ndarray]:
        count = where.answer_lengths.double()
        mean = lambda values: segment_sum(values, where.answer_cu) / count  # noqa: E731
        columns: dict[str, Tensor] = {"n_tokens": where.lengths.double(), "n_answer_tokens": count}
        if "nll" in self.scores or "nll_without_image" in self.scores:
            columns["nll"] = mean(token.nll)
        if "mean_exp_nll" in self.scores:
            columns["mean_exp_nll"] = mean(token.nll.double().exp())
        if "entropy" in self.scores:
            columns["entropy"] = mean(token.entropy)
        if "el2n" in self.scores:
            columns["el2n"] = mean(token.el2n_sq.clamp_min(0).sqrt())
        if "entropy_all" in self.scores:
            every = states.index_select(0, where.tokens)
            ignored = torch.full((len(every),), -100, device=every.device)
            entropy = token_scores(every, weight, ignored, bias=bias).entropy
            columns["entropy_all"] = segment_sum(entropy, where.cu_seqlens) / where.lengths.double()
        if self.hidden is not None:
            states = states if self.layer_output is None else self.layer_output.flatten(0, 1)
            total = segment_sum(states.index_select(0, where.tokens), where.cu_seqlens)
            columns["hidden"] = (total / where.lengths.double()[:, None]).float()
            self.layer_output = None
        if self.sink is not None:
            assert self.sink.features is not None
            columns["sketch"] = self.sink.features
            if self.sink.squared_norms is not None:
                columns["grad_norm"] = self.sink.squared_norms.double().sqrt()
        out = {name: column.cpu().numpy() for name, column in columns.items()}
        out["n_images"] = np.array([float(encoded.n_images) for encoded in batch])
        return out


def _run_all(run: _Pass, encoded: Sequence[Encoded], batch_tokens: int, description: str) -> dict[str, np.ndarray]:
    """Run every batch and put the rows back into the order of ``encoded``."""
    rows: dict[str, np.ndarray] = {}
    with progress(total=len(encoded), description=description, unit="sample") as bar:
        for indices in batches([len(e.input_ids) for e in encoded], batch_tokens):
            for part, columns in _run_fitting(run, encoded, indices):
                for name, values in columns.items():
                    if name not in rows:
                        rows[name] = np.empty((len(encoded), *values.shape[1:]), values.dtype)
                    rows[name][part] = values
                bar.update(len(part))
    return rows


def _run_fitting(
    run: _Pass, encoded: Sequence[Encoded], indices: list[int]
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Run a batch, in halves if the accelerator's memory does not hold it."""
    try:
        yield indices, run([encoded[i] for i in indices])
        return
    except torch.OutOfMemoryError as error:
        if len(indices) == 1:
            one = encoded[indices[0]]
            raise SampleTooLongError(
                f"its {len(one.input_ids)} tokens do not fit in memory even alone",
                item=one.id,
                remedy="lower model.max_length, or use a smaller dtype or a quantised base",
            ) from error
    torch.cuda.empty_cache()
    middle = len(indices) // 2
    yield from _run_fitting(run, encoded, indices[:middle])
    yield from _run_fitting(run, encoded, indices[middle:])


def _add_without_image(
    lm: LanguageModel,
    dataset: Sequence[Sample],
    encoded: Sequence[Encoded],
    rows: dict[str, np.ndarray],
    mode: Literal["remove", "zero"],
    batch_tokens: int,
    packed: bool,
) -> float:
    """Fill ``nll_without_image``: NaN for text-only samples, or their own NLL where pictures are zeroed. FLOPs."""
    by_id = {sample.id: sample for sample in dataset}
    with_image = [i for i, one in enumerate(encoded) if one.n_images > 0]
    column = rows["nll"].copy() if mode == "zero" else np.full(len(encoded), np.nan)
    flops = 0.0
    if with_image:
        run = _Pass(lm, {}, None, ("nll",), None, "sum", packed)
        without = [lm.encoder.encode(by_id[encoded[i].id], images=mode) for i in with_image]
        with _frozen(lm.model):
            column[with_image] = _run_all(run, without, batch_tokens, "without pictures")["nll"]
        flops = run.flops
    rows["nll_without_image"] = column
    return flops


def _check_finite(
    encoded: Sequence[Encoded], rows: dict[str, np.ndarray], policy: OnNonFinite
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """The rows, the ids whose numbers were zeroed and the ids to drop."""
    bad = np.zeros(len(encoded), bool)
    for name, values in rows.items():
        finite = np.isfinite(values).reshape(len(values), -1).all(1)
        if name == "nll_without_image":
            finite |= np.isnan(values) & (rows["n_images"] == 0)
        bad |= ~finite
    ids = [one.id for one, is_bad in zip(encoded, bad, strict=True) if is_bad]
    if not ids:
        return rows, [], []
    if policy == "raise":
        raise NonFiniteError(
            f"{len(ids)} of {len(encoded)} samples have a non-finite loss, gradient or score (first ids: {ids[:5]})",
            item=ids[0],
            remedy="check these samples, use a wider dtype, or set features.on_nonfinite to drop or zero",
        )
    if policy == "drop":
        return rows, [], ids
    return {name: _zero_rows(values, bad) for name, values in rows.items()}, ids, []


def _zero_rows(values: np.ndarray, bad: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[bad] = np.where(np.isfinite(values[bad]), values[bad], 0)
    return values


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient and dropout is off; everything is as before afterwards."""
    training = {module: module.training for module in model.modules()}
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
        for module, was in training.items():
            module.training = was
