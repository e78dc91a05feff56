"""What every router has in common: tasks that are added one by one, routes with a confidence, and abstention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptinf.data import Sample, unit_hash
from adaptinf.errors import ConfigError, EmptyTaskError, NonFiniteError
from adaptinf.routing.encoders import Identified, RequestEncoder

Sees = TypeVar("Sees", bound=Identified)


@dataclass(frozen=True, eq=False)
class Routes:
    """A decision for every request.

    Attributes:
        tasks: the task of each request; None where the router abstains and the base model answers.
        names: the T tasks that the router knows, in the order of their arrival.
        probabilities: float64 [N, T], rows sum to 1.
        novelty: float64 [N], larger for requests that resemble no task; at or above 1 the router abstains.
    """

    tasks: list[str | None]
    names: list[str]
    probabilities: NDArray[np.float64]
    novelty: NDArray[np.float64]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """float64 [N]: probability of the most probable task, abstained from or not."""
        return self.probabilities.max(axis=1) if len(self.names) else np.zeros(len(self.tasks))


@runtime_checkable
class Router(Protocol):
    """Learns tasks as they arrive and says which one a request belongs to."""

    kind: ClassVar[str]
    names: list[str]

    @property
    def flops(self) -> float:
        """What routing has cost so far, by the counting model."""
        ...

    def add_task(self, name: str, samples: Sequence[Sample]) -> None:
        """Learn one more task from samples of it (their answers are not read). Earlier samples are not needed again.

        Raises ConfigError where the task is known, EmptyTaskError without samples.
        """
        ...

    def predict(self, samples: Sequence[Sample]) -> Routes:
        """Route each request. Raises EmptyTaskError before the first task."""
        ...


class FeatureRouter(ABC, Generic[Sees]):
    """A router over what one encoder makes of requests, their vectors as a rule.

    ``abstain`` is the share of a task's own requests that may be sent to the base model by mistake: each task's novelty
    is scaled so that this share of what the task was learned from lies at 1 or above. None never abstains.
    """

    kind: ClassVar[str]
    learns_from_samples = True

    def __init__(self, encoder: Sees, *, abstain: float | None = None) -> None:
        if abstain is not None and not 0 <= abstain < 1:
            raise ConfigError(f"is {abstain}", item="abstain", remedy="give a share in [0, 1), or None")
        self.encoder, self.abstain = encoder, abstain
        self.names: list[str] = []

    @property
    def flops(self) -> float:
        """The encoder's; what comes after it is a few products of short vectors."""
        return self.encoder.flops

    def add_task(self, name: str, samples: Sequence[Sample]) -> None:
        if name in self.names:
            raise ConfigError("is known to the router", item=name, remedy="choose another name")
        if self.learns_from_samples and not samples:
            raise EmptyTaskError("has no sample to learn to route it from", item=name, remedy="give some")
        self._learn(name, samples)
        self.names.append(name)

    def predict(self, samples: Sequence[Sample]) -> Routes:
        if not self.names:
            raise EmptyTaskError("knows no task", item=f"router {self.kind}", remedy="add_task first")
        if not samples:
            return Routes([], list(self.names), np.zeros((0, len(self.names))), np.zeros(0))
        probabilities, novelty = self._decide(samples)
        best = probabilities.argmax(axis=1)
        away = novelty >= 1 if self.abstain is not None else np.zeros(len(samples), bool)
        tasks = [None if gone else self.names[i] for i, gone in zip(best, away, strict=True)]
        return Routes(tasks, list(self.names), probabilities, novelty)

    @abstractmethod
    def _learn(self, name: str, samples: Sequence[Sample]) -> None:
        """Take up a task; ``names`` does not hold it yet."""

    @abstractmethod
    def _decide(self, samples: Sequence[Sample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probabilities [N, T] and novelty [N] of one request or more."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able, without the encoder."""

    @abstractmethod
    def state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays by name."""

    @abstractmethod
    def restore(self, names: list[str], state: dict[str, NDArray[Any]]) -> None:
        """Take over what ``state`` gave. Raises KeyError or ValueError where it is of another router."""

    def _limit(self, novelty: NDArray[np.float64]) -> float:
        """The novelty that counts as 1: exceeded by the allowed share of a task's own."""
        if self.abstain is None:
            return float(novelty.max()) or 1.0
        limit = float(np.quantile(novelty, 1 - self.abstain, method="higher"))
        return np.nextafter(limit, np.inf) if limit > 0 else float(np.finfo(np.float64).tiny)


def encode(encoder: RequestEncoder, samples: Sequence[Sample]) -> Tensor:
    """The encoder's vectors, as :func:`finite` lets them pass."""
    return finite(encoder(samples), samples)


def finite(rows: Tensor, samples: Sequence[Sample]) -> Tensor:
    """The rows, one a sample. Raises NonFiniteError naming the samples whose row is not finite."""
    bad = [sample.id for sample, fine in zip(samples, torch.isfinite(rows).all(1).tolist(), strict=True) if not fine]
    if bad:
        raise NonFiniteError(
            f"{len(bad)} of {len(samples)} requests have a vector that is not finite",
            item=", ".join(bad[:5]),
            remedy="look at these samples and at the encoder's weights",
        )
    return rows


def retain(samples: Sequence[Sample], exemplars: int | float, seed: int) -> list[Sample]:
    """What is kept of a task: so many samples, or ``max(1, floor(share * N))`` for a share; drawn by seed and id.

    Source: SwitchCIT retains 0.01 % of a task, ten prompts of 100,000.
    """
    count = max(1, int(exemplars * len(samples))) if isinstance(exemplars, float) else exemplars
    return sorted(samples, key=lambda sample: unit_hash(seed, "exemplar", sample.id))[:count]


def require_positive(**settings: float) -> None:
    """Raises ConfigError naming the first setting that is not above 0."""
    for name, value in settings.items():
        if value <= 0:
            raise ConfigError(f"is {value}", item=name, remedy="give a positive number")
