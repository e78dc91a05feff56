"""Nearest centroid, made for gradient sketches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from adaptinf.data import Sample
from adaptinf.routing.calibration import softmax
from adaptinf.routing.encoders import RequestEncoder
from adaptinf.routing.router import FeatureRouter, encode, require_positive


class NearestCentroidRouter(FeatureRouter[RequestEncoder]):
    """``softmax(cos(x - m, c_t - m) / temperature)`` with x the unit vector of a request, c_t the mean of task t's unit
    vectors and m the mean of the centroids: the gradients of all requests to one model have much in common, which says
    nothing about the task. With a single task m is 0.

    Novelty is the least squared distance ``|x - c_t|^2`` over its limit for that task, which the ``abstain`` share of
    the task's own samples exceed. Needs no training and retains no sample: a sum and a count a task. Ours; meant for
    :class:`SketchEncoder`, works on any encoder.
    """

    kind: ClassVar[str] = "centroid"

    def __init__(self, encoder: RequestEncoder, *, temperature: float = 0.1, abstain: float | None = None) -> None:
        super().__init__(encoder, abstain=abstain)
        require_positive(temperature=temperature)
        self.temperature = temperature
        self._centroids: list[NDArray[np.float64]] = []
        self._limits: list[float] = []

    def _learn(self, name: str, samples: Sequence[Sample]) -> None:
        rows = self._unit(samples)
        self._centroids.append(rows.mean(axis=0))
        self._limits.append(self._limit(((rows - self._centroids[-1]) ** 2).sum(axis=1)))

    def _decide(self, samples: Sequence[Sample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows, centroids = self._unit(samples), np.stack(self._centroids)
        common = centroids.mean(axis=0) if len(centroids) > 1 else 0.0
        one, other = (_rows_of_length_1(part - common) for part in (rows, centroids))
        squared = (rows**2).sum(1)[:, None] - 2 * rows @ centroids.T + (centroids**2).sum(1)
        novelty = (np.maximum(0, squared) / np.array(self._limits)).min(axis=1)
        return softmax(one @ other.T / self.temperature), novelty

    def _unit(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        return _rows_of_length_1(encode(self.encoder, samples).double().numpy())

    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "abstain": self.abstain}

    def state(self) -> dict[str, NDArray[Any]]:
        return {"centroids": np.stack(self._centroids), "limits": np.array(self._limits)}

    def restore(self, names: list[str], state: dict[str, NDArray[Any]]) -> None:
        if len(state["centroids"]) != len(names) or len(state["limits"]) != len(names):
            raise ValueError("centroids do not fit the names of the tasks")
        self.names, self._centroids = names, list(state["centroids"])
        self._limits = state["limits"].tolist()


def _rows_of_length_1(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """A zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
