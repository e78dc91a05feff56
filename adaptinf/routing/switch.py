"""SwitchCIT's switch network, with its classes really added one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from adaptinf.data import Sample
from adaptinf.errors import ConfigError
from adaptinf.routing.calibration import fit_temperature, softmax
from adaptinf.routing.encoders import RequestEncoder
from adaptinf.routing.router import FeatureRouter, encode, require_positive, retain

_FOLDS = 5


class SwitchNetwork(FeatureRouter[RequestEncoder]):
    """``softmax(W2 relu(W1 x + b1) + b2)`` over a request's vector x, trained on a few retained requests of every task.

    A task that arrives leaves ``exemplars`` (a number, or a share of its samples, at least one) as vectors, never as
    texts; the network gets one more output, keeps its weights, and is trained on with the exemplars of all tasks, each
    task weighing the same: AdamW on the whole set at once, ``steps`` times. Vectors are centred and scaled by the
    exemplars. A request is encoded once.

    Probabilities are divided by a temperature fitted to predictions on exemplars that the network was not trained on
    (cross-validation; 1 where a task has a single one). Novelty is the cosine distance to the nearest exemplar over
    what the ``abstain`` share of exemplars exceed to the nearest other one of their own task.

    Source: SwitchCIT (arXiv:2407.11780) and its code: Linear(d, 200), ReLU, Linear(200, T), AdamW 1e-3, ten prompts a
    task. Its code never trains the first task's class and knows all tasks from the start; here every task can be routed
    to, in the order in which they arrive. Abstention by nearest neighbours: Sun et al. 2022 (arXiv:2204.06507).
    """

    kind: ClassVar[str] = "switch"

    def __init__(
        self,
        encoder: RequestEncoder,
        *,
        exemplars: int | float = 10,
        hidden: int = 200,
        steps: int = 200,
        learning_rate: float = 1e-3,
        abstain: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, abstain=abstain)
        if exemplars <= 0 or (isinstance(exemplars, float) and exemplars > 1):
            raise ConfigError(f"is {exemplars}", item="exemplars", remedy="give a number >= 1 or a share in (0, 1]")
        require_positive(hidden=hidden, steps=steps, learning_rate=learning_rate)
        self.exemplars, self.hidden, self.steps, self.learning_rate = exemplars, hidden, steps, learning_rate
        self.seed = seed
        self.temperature, self.limit = 1.0, np.inf
        self._rows, self._labels = torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
        self._weights: list[Tensor] = []

    def _learn(self, name: str, samples: Sequence[Sample]) -> None:
        rows = encode(self.encoder, retain(samples, self.exemplars, self.seed))
        task = len(self.names)
        self._rows = torch.cat([self._rows, rows]) if task else rows
        self._labels = torch.cat([self._labels, torch.full((len(rows),), task)])
        self._weights = self._train(self._grown(self._weights, task + 1), self._rows, self._labels)
        self.temperature, self.limit = self._temperature(task + 1), self._distance_limit()

    def _decide(self, samples: Sequence[Sample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = encode(self.encoder, samples)
        logits = _forward(self._weights, self._centred(rows)).double().numpy()
        return softmax(logits / self.temperature), self._distances(rows).min(axis=1) / self.limit

    def _grown(self, weights: list[Tensor], tasks: int) -> list[Tensor]:
        """The network with ``tasks`` outputs: those that it has stay, what is missing is drawn by seed."""
        width = self._rows.shape[1]
        drawn = torch.Generator().manual_seed(self.seed * 1_000_003 + tasks)

        def uniform(rows: int, columns: int) -> Tensor:
            return (torch.rand(rows, columns, generator=drawn) * 2 - 1) / columns**0.5

        if not weights:
            return [
                uniform(self.hidden, width),
                torch.zeros(self.hidden),
                uniform(tasks, self.hidden),
                torch.zeros(tasks),
            ]
        more = tasks - len(weights[3])
        first, bias, last, offset = weights
        return [first, bias, torch.cat([last, uniform(more, self.hidden)]), torch.cat([offset, torch.zeros(more)])]

    def _train(self, start: list[Tensor], rows: Tensor, labels: Tensor) -> list[Tensor]:
        weights = [weight.clone().requires_grad_() for weight in start]
        counts = torch.bincount(labels, minlength=len(start[3])).clamp_min(1)
        optimiser = torch.optim.AdamW(weights, lr=self.learning_rate)
        inputs = self._centred(rows)
        with torch.enable_grad():
            for _ in range(self.steps):
                optimiser.zero_grad()
                F.cross_entropy(_forward(weights, inputs), labels, weight=1 / counts).backward()
                optimiser.step()
        return [weight.detach() for weight in weights]

    def _temperature(self, tasks: int) -> float:
        counts = torch.bincount(self._labels, minlength=tasks)
        folds = min(_FOLDS, int(counts.min()))
        if tasks < 2 or folds < 2:
            return 1.0
        place = torch.cat([torch.arange(int(count)) for count in counts]) % folds  # inside each task
        logits = torch.empty(len(self._rows), tasks)
        for fold in range(folds):
            out = place == fold
            weights = self._train(self._grown([], tasks), self._rows[~out], self._labels[~out])
            logits[out] = _forward(weights, self._centred(self._rows[out]))
        return fit_temperature(logits.numpy(), self._labels.numpy())

    def _distance_limit(self) -> float:
        """What the allowed share of exemplars exceed; infinite where no task has two."""
        same = (self._labels[:, None] == self._labels).fill_diagonal_(False)
        known = same.any(1).numpy()
        if not known.any():
            return np.inf
        distances = np.where(same.numpy(), self._distances(self._rows), np.inf).min(axis=1)
        return self._limit(distances[known])

    def _distances(self, rows: Tensor) -> NDArray[np.float64]:
        """1 minus the cosine of centred vectors to every exemplar, at least 0."""
        one, other = (F.normalize(self._centred(part).double(), dim=1) for part in (rows, self._rows))
        return (1 - one @ other.T).clamp_min(0).numpy()

    def _centred(self, rows: Tensor) -> Tensor:
        """Around the exemplars' mean, in units of their root mean square: one for all dimensions, as those that only
        carry noise would weigh as much as the others if each had its own."""
        centred = self._rows - self._rows.mean(0)
        return (rows - self._rows.mean(0)) / (float(centred.square().mean().sqrt()) or 1.0)

    def settings(self) -> dict[str, Any]:
        names = ("exemplars", "hidden", "steps", "learning_rate", "abstain", "seed")
        return {name: getattr(self, name) for name in names}

    def state(self) -> dict[str, NDArray[Any]]:
        weights = dict(zip(("w1", "b1", "w2", "b2"), (weight.numpy() for weight in self._weights), strict=False))
        learned = {"rows": self._rows.numpy(), "labels": self._labels.numpy()} | weights
        return learned | {"scales": np.array([self.temperature, self.limit])}

    def restore(self, names: list[str], state: dict[str, NDArray[Any]]) -> None:
        rows, labels = torch.from_numpy(state["rows"]), torch.from_numpy(state["labels"])
        weights = [torch.from_numpy(state[name]) for name in ("w1", "b1", "w2", "b2")]
        shapes = [(self.hidden, rows.shape[1]), (self.hidden,), (len(names), self.hidden), (len(names),)]
        if [tuple(weight.shape) for weight in weights] != shapes or sorted(set(labels.tolist())) != list(
            range(len(names))
        ):
            raise ValueError("weights and exemplars do not fit the names of the tasks")
        self.names, self._rows, self._labels, self._weights = names, rows, labels, weights
        self.temperature, self.limit = state["scales"].tolist()


def _forward(weights: Sequence[Tensor], rows: Tensor) -> Tensor:
    first, bias, last, offset = weights
    return F.linear(F.linear(rows, first, bias).relu(), last, offset)
