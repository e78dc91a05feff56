"""One pass over a model: gradient sketches, token scores and hidden means of every sample, from the same forward.

Per batch: forward up to the head's input; ``token_scores`` on the answer tokens gives NLL, entropy, EL2N and the
gradient that flows back; backward stops at the lowest target layer and forms no weight gradient; taps sketch each
target's per-sample gradient. Samples with pictures run a second, forward-only pass without them (Image Grounding).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from adaptinf_kernels import Preconditioner, Sketch
from transformers import PreTrainedModel

from adaptinf.capture.batching import Batching, windows
from adaptinf.capture.features import Features
from adaptinf.capture.forward import Forward, prepared
from adaptinf.capture.parameters import Targets, select
from adaptinf.capture.targets import Layers, Parameters, find_targets
from adaptinf.data import Sample
from adaptinf.errors import ConfigError, EmptyTaskError, NonFiniteError, UnsupportedModelError
from adaptinf.models import Encoded, LanguageModel, wrap
from adaptinf.progress import progress

SCORES = ("nll", "mean_exp_nll", "entropy", "entropy_all", "el2n", "margin", "grad_norm", "nll_without_image")
"""Names for ``scores=``; ``n_tokens``, ``n_answer_tokens`` and ``n_images`` always come along."""

OnNonFinite = Literal["raise", "drop", "zero"]
Rows = dict[str, np.ndarray]


def extract(
    model: LanguageModel | PreTrainedModel,
    dataset: Sequence[Sample],
    *,
    processor: Any = None,
    sketch: Sketch | None = None,
    layers: Layers = "middle",
    parameters: Parameters = "lora",
    targets: Targets | None = None,
    per_parameter: bool = False,
    preconditioners: Mapping[str, Preconditioner] | None = None,
    scores: Sequence[str] = ("nll", "entropy", "el2n", "nll_without_image"),
    hidden: int | Literal["last"] | None = "last",
    image_grounding: Literal["remove", "zero"] = "remove",
    loss: Literal["mean_answer_tokens", "sum"] = "mean_answer_tokens",
    batch_tokens: int | Literal["auto"] = "auto",
    packed: bool | None = None,
    on_nonfinite: OnNonFinite = "raise",
    on_error: Literal["raise", "drop"] = "raise",
    description: str = "features",
) -> Features:
    """Features of every sample of ``dataset``, in its order.

    The features of a sample are those of the loss ``1/|T| sum_T NLL`` (``mean_answer_tokens``) or ``sum_T NLL`` over
    its answer tokens T, with dropout off; they do not depend on the batch beyond rounding. ``sketch`` [N, k] is
    ``S vec(g)`` with g the gradient over ``parameters`` of ``layers`` (:func:`find_targets`), or over ``targets``
    (:data:`Targets`) if given; None runs no backward. With ``per_parameter`` it is [N, P k]: ``k`` numbers for each of
    the P parameters, in the order of ``identity["targets"]``, instead of their sum. With ``preconditioners``, by the
    names of parameters (every target needs one, others are not used), ``direction`` comes beside it: the same sketch of
    the preconditioned gradients, as LESS compares the one with the other. ``hidden`` [N, d] is the mean over
    all tokens of the head's input (``last``) or of a decoder layer's output. Score formulas: docs/architecture.md.

    ``model`` is a :class:`LanguageModel`, or a transformers model with its ``processor`` (or tokenizer).
    ``batch_tokens`` bounds the cells of a padded batch (``auto``: what the device holds); a batch that does not fit in
    GPU memory is halved. ``packed`` puts a batch into one row without padding; None does so where attention takes rows
    of variable length (flash attention), as any other costs the square of the whole row.

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
    if packed is None:
        packed = lm.packs_rows and lm.supports_packing
    if not dataset:
        raise EmptyTaskError(
            "there is no sample to extract features from", remedy="check the readers' limits and filters"
        )
    chosen = {}
    if sketch is not None or "grad_norm" in scores:
        chosen = select(lm.model, targets) if targets is not None else find_targets(lm, layers, parameters)
    if preconditioners:
        lacking = sorted(chosen.keys() - preconditioners.keys())
        if sketch is None or lacking:
            raise ConfigError(
                "has no preconditioner" if lacking else "preconditions what is not sketched",
                item=lacking[0] if lacking else "preconditioners",
                remedy="give one for every target and a sketch, or none",
            )
        preconditioners = {name: preconditioners[name] for name in chosen}
    without_image = "nll_without_image" in scores
    identity = {
        "model": lm.identity(),
        "sketch": sketch.identity if sketch is not None else None,
        "targets": list(chosen) if per_parameter else sorted(chosen),
        "per_parameter": per_parameter,
        "preconditioners": _digest(preconditioners) if preconditioners else None,
        "hidden": hidden,
        "loss": loss,
        "image_grounding": image_grounding if without_image else None,
    }
    wanted = tuple({*scores, "nll"}) if without_image else tuple(scores)
    run = Forward(lm, chosen, sketch, wanted, hidden, loss, packed, per_parameter, preconditioners)
    blind = Forward(lm, {}, None, ("nll",), None, "sum", packed)
    batching = Batching(batch_tokens, lm.device)
    by_id = {sample.id: sample for sample in dataset}
    ids: list[str] = []
    dropped: list[tuple[str, str]] = []
    parts: list[Rows] = []
    known: dict[Hashable, float] = {}
    bar = progress(total=len(dataset), description=description, unit="sample")
    with prepared(lm.model, chosen), run.open(), blind.open(), bar:
        for window in windows(_usable(lm, dataset, on_error, dropped)):
            rows = _rows(run, window, batching, bar.update)
            if without_image:
                samples = [by_id[one.id] for one in window]
                rows["nll_without_image"] = _blind_nll(blind, samples, rows, image_grounding, batching, known)
            ids += [one.id for one in window]
            parts.append(rows)
    if not ids:
        raise EmptyTaskError(
            f"all {len(dataset)} samples were dropped: {dropped[0][1]}", remedy="see the reasons given"
        )
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows, zeroed, lost = _check_finite(ids, rows, on_nonfinite)
    keep = [i for i, id in enumerate(ids) if id not in lost]
    if not keep:
        raise NonFiniteError(
            f"all {len(ids)} samples gave non-finite numbers", remedy="check the model's weights and dtype"
        )
    stacked = {name: values[keep] for name, values in rows.items()}
    matrices = {name: stacked.pop(name, None) for name in ("sketch", "hidden", "direction")}
    return Features(
        ids=[ids[i] for i in keep],
        scores=stacked,
        identity=identity,
        dropped=[*dropped, *((id, "non-finite features") for id in lost)],
        zeroed=zeroed,
        flops=run.flops + blind.flops,
        **matrices,
    )


def _digest(preconditioners: Mapping[str, Preconditioner]) -> str:
    digest = hashlib.sha256()
    for name, one in sorted(preconditioners.items()):
        form, *moments, numbers = one.arguments
        digest.update(f"{name}{form}{numbers}".encode())
        for moment in moments:
            if moment is not None:
                digest.update(moment.detach().double().cpu().numpy().tobytes())
    return digest.hexdigest()


def _usable(
    lm: LanguageModel, dataset: Sequence[Sample], on_error: Literal["raise", "drop"], dropped: list[tuple[str, str]]
) -> Iterator[Encoded]:
    """The samples that can be encoded, one by one; the others are added to ``dropped``."""
    for found in lm.encoder.encode_each(dataset, on_error=on_error):
        if isinstance(found, Encoded):
            yield found
        else:
            dropped.append(found)


def _rows(run: Forward, encoded: Sequence[Encoded], batching: Batching, done: Callable[[int], Any]) -> Rows:
    """Run every batch and put the rows into the order of ``encoded``."""
    rows: Rows = {}
    for part, columns in batching.run(encoded, run):
        for name, values in columns.items():
            if name not in rows:
                rows[name] = np.empty((len(encoded), *values.shape[1:]), values.dtype)
            rows[name][part] = values
        done(len(part))
    return rows


def _blind_nll(
    run: Forward,
    samples: Sequence[Sample],
    rows: Rows,
    mode: Literal["remove", "zero"],
    batching: Batching,
    known: dict[Hashable, float],
) -> np.ndarray:
    """``nll_without_image``: NaN for text-only samples, or their own NLL where pictures are zeroed.

    With their pictures removed many samples of a task are the same text: each is run once (``known``).
    """
    column = rows["nll"].copy() if mode == "zero" else np.full(len(samples), np.nan)
    keys: dict[int, Hashable] = {}
    new: dict[Hashable, Encoded] = {}
    for i in np.flatnonzero(rows["n_images"] > 0).tolist():
        keys[i] = key = samples[i].id if mode == "zero" else _text(samples[i])
        if key not in known and key not in new:
            new[key] = run.lm.encoder.encode(samples[i], images=mode)
    if new:
        nll = _rows(run, list(new.values()), batching, lambda count: None)["nll"]
        known.update(zip(new, nll.tolist(), strict=True))
    for i, key in keys.items():
        column[i] = known[key]
    return column


def _text(sample: Sample) -> Hashable:
    """All that a model sees of a sample whose pictures were removed."""
    return tuple((message.role, message.text) for message in sample.messages), sample.answer


def _check_finite(ids: Sequence[str], rows: Rows, policy: OnNonFinite) -> tuple[Rows, list[str], list[str]]:
    """The rows, the ids whose numbers were zeroed and the ids to drop."""
    bad = np.zeros(len(ids), bool)
    for name, values in rows.items():
        finite = np.isfinite(values).reshape(len(values), -1).all(1)
        if name == "nll_without_image":
            finite |= np.isnan(values) & (rows["n_images"] == 0)
        bad |= ~finite
    wrong = [id for id, is_bad in zip(ids, bad, strict=True) if is_bad]
    if not wrong:
        return rows, [], []
    if policy == "raise":
        raise NonFiniteError(
            f"{len(wrong)} of {len(ids)} samples have a non-finite loss, gradient or score (first ids: {wrong[:5]})",
            item=wrong[0],
            remedy="check these samples, use a wider dtype, or set features.on_nonfinite to drop or zero",
        )
    if policy == "drop":
        return rows, [], wrong
    return {name: _zero_rows(values, bad) for name, values in rows.items()}, wrong, []


def _zero_rows(values: np.ndarray, bad: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[bad] = np.where(np.isfinite(values[bad]), values[bad], 0)
    return values
