"""What an edit is held against: training from the same start on other samples, to the end or as one commonly does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from adaptinf.data import Sample
from adaptinf.models import LanguageModel, trainable_parameters

BATCH = 32
STEP_BATCH, LEARNING_RATE = 8, 1e-2


class Objective:
    """``token mean of the answers' NLL + decay/2 |parameters|^2`` over all samples at once, in float32."""

    def __init__(self, lm: LanguageModel, samples: Sequence[Sample], decay: float) -> None:
        self.lm, self.decay = lm, decay
        self.parameters = [parameter for _, parameter in trainable_parameters(lm)]
        encoded = sorted(lm.encoder.encode_all(samples)[0], key=lambda one: len(one.input_ids))
        self.encoded = encoded
        self.batches = [lm.encoder.collate(encoded[i : i + BATCH]) for i in range(0, len(encoded), BATCH)]
        self.tokens = sum(map(_tokens, self.batches))

    def gradient(self) -> float:
        """The value; its gradient is left in the parameters."""
        return self._penalty() + self.slope(self.batches, self.tokens)

    def slope(self, batches: Sequence[dict[str, Tensor]], tokens: int) -> float:
        """The token mean of some batches, without the weight decay; its gradient, with it, is left."""
        for parameter in self.parameters:
            parameter.grad = self.decay * parameter.detach()
        value = 0.0
        for batch in batches:
            loss = self.lm.answer_nll(batch) / tokens
            loss.backward()
            value += loss.item()
        return value

    @torch.no_grad()
    def value(self) -> float:
        return self._penalty() + sum(self.lm.answer_nll(batch).item() for batch in self.batches) / self.tokens

    @torch.no_grad()
    def accuracy(self) -> float:
        """The share of the answers' tokens that are the most likely ones after what stands before them."""
        right = 0
        for batch in self.batches:
            answers = batch["labels"][:, 1:] != -100
            right += int((self.lm.logits(batch)[:, :-1].argmax(-1) == batch["labels"][:, 1:])[answers].sum())
        return right / self.tokens

    def _penalty(self) -> float:
        return self.decay / 2 * sum(parameter.detach().square().sum().item() for parameter in self.parameters)


@dataclass(frozen=True)
class Trained:
    """``parameters`` by their order; ``passes`` over the samples, ``seconds`` of a processor, ``flops`` of matrix
    products; ``slope``: the largest entry of the gradient at the end."""

    parameters: list[Tensor]
    passes: int
    seconds: float
    flops: float
    slope: float


def train(objective: Objective, start: Sequence[Tensor], *, passes: int, slope: float) -> Trained:
    """L-BFGS with a line search from ``start`` until no entry of the gradient is above ``slope``, or for so many
    passes. The model is left at the end."""
    put(objective.parameters, start)
    solver = torch.optim.LBFGS(
        objective.parameters, max_iter=passes, max_eval=passes, history_size=50, tolerance_grad=slope,
        tolerance_change=0, line_search_fn="strong_wolfe",
    )  # fmt: skip
    done = 0

    def step() -> float:
        nonlocal done
        done += 1
        return objective.gradient()

    return _measured(objective, lambda: solver.step(step), lambda: done)


def train_by_adam(objective: Objective, start: Sequence[Tensor], *, epochs: int, seed: int) -> Trained:
    """As adapters are commonly trained: Adam on batches of ``STEP_BATCH`` in an order drawn by ``seed``, the learning
    rate falling to 0 by a cosine. Its weight decay is that of the objective, not AdamW's."""
    put(objective.parameters, start)
    generator = torch.Generator().manual_seed(seed)
    solver = torch.optim.Adam(objective.parameters, lr=LEARNING_RATE)

    def run() -> None:
        order = sorted(objective.encoded, key=lambda one: one.id)
        steps = epochs * math.ceil(len(order) / STEP_BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
        for _ in range(epochs):
            shuffled = [order[i] for i in torch.randperm(len(order), generator=generator).tolist()]
            for first in range(0, len(order), STEP_BATCH):
                batch = objective.lm.encoder.collate(shuffled[first : first + STEP_BATCH])
                objective.slope([batch], _tokens(batch))
                solver.step()
                schedule.step()

    return _measured(objective, run, lambda: epochs)


def _measured(objective: Objective, run: Callable[[], object], passes: Callable[[], int]) -> Trained:
    begun = time.process_time()
    run()
    seconds = time.process_time() - begun
    with FlopCounterMode(display=False) as counter:
        objective.gradient()
    slope = max(parameter.grad.abs().max().item() for parameter in objective.parameters if parameter.grad is not None)
    return Trained(copied(objective.parameters), passes(), seconds, passes() * counter.get_total_flops(), slope)


def _tokens(batch: dict[str, Tensor]) -> int:
    return int((batch["labels"][:, 1:] != -100).sum())


def copied(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
