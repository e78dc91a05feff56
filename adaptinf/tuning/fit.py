"""One LoRA fit on given samples: the transformers Trainer, with losses and gradients checked by sample id."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import torch
from adaptinf_kernels import Preconditioner
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from adaptinf.config import TrainConfig
from adaptinf.data import Sample
from adaptinf.errors import EmptyTaskError, NonFiniteError
from adaptinf.models import Encoded, Encoder, LanguageModel
from adaptinf.models.collate import like_lengths
from adaptinf.models.fused import fused_layers
from adaptinf.progress import progress
from adaptinf.tuning.moments import moments_of
from adaptinf.tuning.regularisers import Regulariser


@dataclass(frozen=True)
class FitResult:
    """``history``: one row an optimiser step (``step, loss, penalty, learning_rate, grad_norm``; the loss has the
    penalty in it); ``flops`` by the counting model; ``dropped``: samples left out, as (id, reason); ``skipped``: ids
    whose step was skipped as non-finite; ``moments``: Adam's state at the end, by parameter."""

    history: pa.Table
    steps: int
    n_samples: int
    flops: float
    dropped: list[tuple[str, str]]
    skipped: list[str]
    moments: dict[str, Preconditioner]


def fit(
    lm: LanguageModel,
    samples: Sequence[Sample],
    config: TrainConfig,
    *,
    seed: int,
    on_long: str = "raise",
    regulariser: Regulariser | None = None,
) -> FitResult:
    """Train the parameters of ``lm`` that ask for a gradient on ``samples``, in place.

    Loss: token mean of the answers' NLL over a step (:meth:`LanguageModel.answer_nll`), plus ``regulariser()``, if any,
    once a step. AdamW (betas 0.9, 0.999), warm-up then ``config.schedule``; the order of the samples, dropout and
    everything else that draws follow ``seed``.

    Raises EmptyTaskError without samples, NonFiniteError naming the ids of the batch (``on_nonfinite=raise``), and the
    encoder's errors (``on_long=raise``).
    """
    usable, dropped = _usable(lm.encoder, samples, "drop" if on_long == "drop" else "raise")
    if not usable:
        raise EmptyTaskError(
            "there is no sample to train on", remedy="raise the budget, or see why samples were dropped"
        )
    watch = _Watch(config.on_nonfinite)
    flops = _Flops(lm)
    with tempfile.TemporaryDirectory(prefix="adaptinf-trainer-") as scratch:
        trainer = _Trainer(
            model=lm.model,
            compute_loss_func=lm.answer_nll,
            args=_arguments(config, seed, scratch, lm.device),
            train_dataset=_Encodings(lm.encoder, usable),
            data_collator=lambda batch: _collate(lm, batch),
            callbacks=[watch, _Bar()],
        )
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.watch, trainer.count_flops, trainer.regulariser = watch, flops, regulariser
        with _training(lm.model, checkpointing=config.gradient_checkpointing), fused_layers(lm.model):
            trainer.train()
        assert isinstance(trainer.optimizer, torch.optim.Optimizer)  # made by train()
        moments = moments_of(trainer.optimizer, lm.model)
    log = [row for row in trainer.state.log_history if "loss" in row]
    history = pa.table(
        {
            "step": pa.array([row["step"] for row in log], pa.int64()),
            "loss": pa.array([row["loss"] for row in log], pa.float64()),
            "penalty": pa.array([trainer.penalties.get(int(row["step"]), 0.0) for row in log], pa.float64()),
            "learning_rate": pa.array([row["learning_rate"] for row in log], pa.float64()),
            "grad_norm": pa.array([row["grad_norm"] for row in log], pa.float64()),
        }
    )
    return FitResult(history, trainer.state.global_step, len(usable), flops.total, dropped, watch.skipped, moments)


@contextmanager
def _training(model: Any, *, checkpointing: bool) -> Iterator[None]:
    """What training changes on a model besides its weights, undone afterwards."""
    use_cache = model.config.use_cache
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()
        model.config.use_cache = use_cache
        model.eval()


def _usable(
    encoder: Encoder, samples: Sequence[Sample], on_error: Literal["raise", "drop"]
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The samples that can be encoded, and ``(id, reason)`` of the others."""
    usable, dropped = [], []
    found = progress(encoder.encode_each(samples, on_error=on_error), "tokenising", total=len(samples))
    for sample, one in zip(samples, found, strict=True):
        if isinstance(one, Encoded):
            usable.append(sample)
        else:
            dropped.append(one)
    return usable, dropped


class _Encodings(torch.utils.data.Dataset):
    """Encoded when their batch comes, so that the pictures of all samples need not fit in memory; the encoder keeps
    what does."""

    def __init__(self, encoder: Encoder, samples: Sequence[Sample]) -> None:
        self.encoder, self.samples = encoder, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Encoded:
        return self.encoder.encode(self.samples[index])


def _collate(lm: LanguageModel, batch: Sequence[Encoded]) -> dict[str, Any]:
    """The batch in parts of like length, so that a long text does not make every short one as long; all ``labels`` in
    one row, which Trainer counts the step's tokens in."""
    lengths = [len(one.input_ids) for one in batch]
    return {
        "parts": [lm.encoder.collate([batch[i] for i in part]) for part in like_lengths(lengths)],
        "labels": torch.cat([one.labels for one in batch]),
        "ids": [one.id for one in batch],
        "lengths": lengths,
    }


def _arguments(config: TrainConfig, seed: int, scratch: str, device: torch.device) -> TrainingArguments:
    return TrainingArguments(
        output_dir=scratch,
        num_train_epochs=config.epochs,
        max_steps=config.steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(config.schedule, config.schedule),
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        seed=seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
    )


@dataclass
class _Flops:
    """Forward, and a backward through every layer, of each batch that was trained on."""

    lm: LanguageModel
    total: float = 0.0

    def __call__(self, lengths: Sequence[int], pixels: int) -> None:
        layers = len(self.lm.decoder_layers)
        self.total += self.lm.flops(lengths, backward_layers=layers, weight_gradients=True, pixels=pixels)


class _Trainer(Trainer):
    """Computes each micro-batch's loss, and looks at it while the ids that made it are known."""

    watch: _Watch
    count_flops: _Flops
    regulariser: Regulariser | None

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.penalties: dict[int, float] = {}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        parts = inputs["parts"]
        pixels = sum(part["pixel_values"].numel() for part in parts if "pixel_values" in part)
        self.count_flops(inputs["lengths"], pixels)
        assert self.compute_loss_func is not None and num_items_in_batch is not None  # so that Trainer counts tokens
        loss = torch.stack([self.compute_loss_func(part) for part in parts]).sum() / num_items_in_batch
        if self.regulariser is not None:
            penalty = self.regulariser()
            self.penalties[self.state.global_step + 1] = float(penalty.detach())
            loss = loss + penalty / self.current_gradient_accumulation_steps
        return self.watch.check(loss, inputs["ids"], model)


@dataclass
class _Watch(TrainerCallback):
    """The policy for a non-finite loss or gradient: name the samples, or skip the step and count them."""

    policy: str
    skipped: list[str] = field(default_factory=list)
    step_ids: list[str] = field(default_factory=list)

    def check(self, loss: Tensor, ids: list[str], model: nn.Module) -> Tensor:
        self.step_ids += ids
        if bool(torch.isfinite(loss)):
            return loss
        self._fail("loss", ids)
        asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.stack([parameter.sum() for parameter in asking]).sum() * 0.0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = [p for p in kwargs["model"].parameters() if p.grad is not None]
        finite = torch.stack([torch.isfinite(p.grad).all() for p in parameters]).all()
        if not bool(finite):
            self._fail("gradient", self.step_ids)
            for parameter in parameters:
                parameter.grad = None
        self.step_ids = []

    def _fail(self, what: str, ids: list[str]) -> None:
        if self.policy == "raise":
            raise NonFiniteError(
                f"the {what} of a training step on {len(ids)} samples is not finite ({', '.join(ids[:8])})",
                item=ids[0],
                remedy="check these samples, lower training.learning_rate, or set training.on_nonfinite to skip",
            )
        self.skipped += ids


class _Bar(TrainerCallback):
    """Progress in samples, in the same style as every other long step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = progress(
            total=state.max_steps * args.train_batch_size * args.gradient_accumulation_steps,
            description="training",
            unit="sample",
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(args.train_batch_size * args.gradient_accumulation_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()
