"""The router that is told: what routing could reach at best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from adaptinf.data import Sample
from adaptinf.errors import ConfigError
from adaptinf.routing.router import Routes


class OracleRouter:
    """Sends every sample to the task that it names, and abstains where that task was never added."""

    kind: ClassVar[str] = "oracle"
    flops = 0.0

    def __init__(self) -> None:
        self.names: list[str] = []

    def add_task(self, name: str, samples: Sequence[Sample]) -> None:
        if name in self.names:
            raise ConfigError("is known to the router", item=name, remedy="choose another name")
        self.names.append(name)

    def predict(self, samples: Sequence[Sample]) -> Routes:
        known = np.array([[sample.task == name for name in self.names] for sample in samples], np.float64)
        known = known.reshape(len(samples), len(self.names))
        lost = np.flatnonzero(~known.any(axis=1))
        known[lost] = 1 / max(1, len(self.names))
        tasks = [sample.task if sample.task in self.names else None for sample in samples]
        novelty = np.zeros(len(samples))
        novelty[lost] = 1.0
        return Routes(tasks, list(self.names), known, novelty)
