"""Selection scores from the training itself: features of every sample in the backward pass that trains on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from adaptinf_kernels import Sketch
from torch import Tensor, nn
from transformers import TrainerCallback

from adaptinf.capture.context import Capture, Captured, capture
from adaptinf.capture.features import Features
from adaptinf.capture.parameters import Targets
from adaptinf.capture.segments import Segments
from adaptinf.capture.tap import in_backward
from adaptinf.errors import ConfigError, UnsupportedModelError

IDS = "ids"
"""Key of a batch under which its samples' ids travel."""


def collate_with_ids(collate: Callable[[list[Any]], dict[str, Any]], field: str = "id") -> Callable[[list[Any]], Any]:
    """A data collator that also hands over the examples' ids: what ``collate`` makes of the rest, and ``ids``.

    The Trainer needs ``remove_unused_columns=False``, or it takes the field out before.
    """

    def collator(examples: list[Any]) -> dict[str, Any]:
        rest = [{key: value for key, value in example.items() if key != field} for example in examples]
        return {**collate(rest), IDS: [str(example[field]) for example in examples]}

    return collator


class _Batch(NamedTuple):
    """A micro-batch on its way: ``divisor`` is what its loss was divided by (None: its own number of tokens)."""

    ids: list[str]
    captured: Captured
    tokens: Tensor
    divisor: Tensor | float | None


class TrainingFeatures(TrainerCallback):
    """A callback that keeps sketch and scores of each sample of each micro-batch, without a second pass.

    ::

        watch = TrainingFeatures(sketch=Sketch(k=2048), scores=["nll", "grad_norm"])
        Trainer(..., data_collator=collate_with_ids(collator), callbacks=[watch]).train()
        features = watch.features()      # rows in the order of training; scores["step"] tells repetitions apart

    Losses are the Trainer's own: token means over an optimiser step (``num_items_in_batch``) or over a micro-batch,
    with gradient accumulation. The features are those of ``loss``, independent of batch size and accumulation: the
    gradient is multiplied by what its loss was divided by (``sum``), then divided by the sample's answer tokens
    (``mean_answer_tokens``, what :func:`extract` gives at the same weights with dropout off).

    Batches are told apart by their attention mask, by position ids that restart (packed rows), or else by rows. The
    labels have to reach the model (no label smoothing), and the loss has to be the mean NLL of the shifted labels:
    auxiliary losses add their gradients. Under DDP each process keeps its own samples. Float16 (scaled losses) and
    DataParallel are refused.

    Args:
        sketch: the random projection; None: scores only.
        scores: of ``nll``, ``mean_exp_nll``, ``entropy``, ``el2n``, ``margin``, ``grad_norm``.
        targets: whose gradients; see :data:`Targets`.
        loss: whose gradients' scale.
    """

    def __init__(
        self,
        *,
        sketch: Sketch | None,
        scores: Sequence[str] = ("nll", "grad_norm"),
        targets: Targets = "trainable",
        loss: Literal["mean_answer_tokens", "sum"] = "mean_answer_tokens",
    ) -> None:
        if loss not in ("mean_answer_tokens", "sum"):
            raise ConfigError("is none of mean_answer_tokens, sum", item=f"loss={loss!r}")
        self._sketch, self._scores, self._targets, self._loss = sketch, tuple(scores), targets, loss
        self._stack = ExitStack()
        self._capture: Capture | None = None
        self._batch: tuple[list[str], Tensor, Tensor | float | None] | None = None
        self._step: list[_Batch] = []
        self._ids: list[str] = []
        self._columns: dict[str, list[np.ndarray]] = {}

    def features(self) -> Features:
        """Every sample of every micro-batch so far, in the order of training; ``step`` is the optimiser's, from 1."""
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        identity = {
            "sketch": self._sketch.identity if self._sketch is not None else None,
            "targets": self._targets if isinstance(self._targets, str) else sorted(self._targets),
            "loss": self._loss,
            "model": "in training",
        }
        return Features(list(self._ids), columns.pop("sketch", None), None, columns, identity)

    def close(self) -> None:
        """Leave the model alone; done when training ends, to be called after it failed."""
        self._stack.close()
        self._capture = self._batch = None
        self._step.clear()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.fp16 or args.n_gpu > 1:
            raise UnsupportedModelError(
                "scales the loss by numbers that only the Trainer knows",
                item="TrainingArguments.fp16" if args.fp16 else "DataParallel",
                remedy="train in bfloat16, with torchrun for several GPUs",
            )
        self.close()
        model = kwargs["model"]
        shared = args.average_tokens_across_devices and args.world_size > 1
        self._processes = args.world_size if shared else 1
        self._capture = self._stack.enter_context(
            capture(model, targets=self._targets, sketch=self._sketch, scores=self._scores)
        )
        self._stack.callback(model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._keep()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._keep()
        for batch in self._step:
            self._store(batch, state.global_step + 1, len(self._step))
        self._step.clear()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """Before the model's forward: take the ids out of the batch and say where its samples lie."""
        ids = kwargs.pop(IDS, None)
        if not torch.is_grad_enabled() or in_backward() or self._capture is None:  # an evaluation
            return args, kwargs
        labels = kwargs.get("labels")
        if ids is None or labels is None:
            raise ConfigError(
                f"the batch has no {'ids' if ids is None else 'labels'}",
                item="data_collator",
                remedy="wrap it in collate_with_ids and set remove_unused_columns=False"
                if ids is None
                else "give labels to the model, and no label smoothing",
            )
        shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
        segments = _segments(labels, kwargs.get("attention_mask"), kwargs.get("position_ids"))
        if len(ids) != segments.samples:
            raise ConfigError(f"{len(ids)} ids for {segments.samples} samples", item="data_collator")
        owner = segments.owners("labels", labels.reshape(-1, 1))
        counted = owner[(shifted.flatten() != -100) & (owner >= 0)]
        tokens = torch.bincount(counted, minlength=segments.samples)
        self._capture.begin(segments, labels=shifted)
        self._batch = ids, tokens, kwargs.get("num_items_in_batch")
        return args, kwargs

    def _keep(self) -> None:
        """After a micro-batch's backward; its numbers stay on the device until the step's end."""
        if self._batch is not None and self._capture is not None:
            ids, tokens, divisor = self._batch
            self._step.append(_Batch(ids, self._capture.result(), tokens, divisor))
            self._batch = None

    def _store(self, batch: _Batch, step: int, micro_batches: int) -> None:
        """Undo the loss' scale; without a divisor it was the mean over the micro-batch's tokens and over them all."""
        tokens = batch.tokens.double()
        divisor = tokens.sum() * micro_batches if batch.divisor is None else torch.as_tensor(batch.divisor).double()
        scale = (divisor / self._processes).expand(len(tokens))
        if self._loss == "mean_answer_tokens":
            scale = scale.to(tokens.device) / tokens.clamp_min(1)
        columns = dict(batch.captured.scores)
        if "grad_norm" in columns:
            columns["grad_norm"] = columns["grad_norm"] * scale.to(columns["grad_norm"].device)
        if batch.captured.sketch is not None:
            sketch = batch.captured.sketch
            columns["sketch"] = sketch * scale.to(sketch)[:, None]
        columns["n_answer_tokens"] = tokens
        columns["step"] = torch.full_like(tokens, step)
        self._ids += batch.ids
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values.cpu().numpy())


def _segments(labels: Tensor, mask: Tensor | None, positions: Tensor | None) -> Segments:
    if mask is not None and mask.dim() == 2:
        return Segments.mask(mask)
    if positions is not None and len(labels) == 1:
        starts = (positions[0] == 0).nonzero().squeeze(1)
        return Segments.packed(torch.cat([starts, starts.new_tensor([labels.shape[1]])]))
    return Segments.rows(len(labels))
