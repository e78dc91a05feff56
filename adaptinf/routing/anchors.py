"""HiDe-LLaVA's anchors: a mean text vector and a mean picture vector of every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from adaptinf.data import Sample
from adaptinf.errors import ConfigError
from adaptinf.routing.calibration import softmax
from adaptinf.routing.encoders import PictureEncoder, RequestEncoder
from adaptinf.routing.router import FeatureRouter, encode, require_positive

_MODES = ("text", "picture")


class AnchorRouter(FeatureRouter[RequestEncoder]):
    """``softmax(r / temperature)`` with r the mean cosine of a request to a task's anchors.

    An anchor is the mean vector of all of a task's requests, of their texts by ``encoder`` and, where ``pictures`` is
    given, of their pictures; r is over the kinds that both the request and the task have. Sums are float64 and counts
    whole numbers, so that the means are exact however many batches they come in (``update``); only tasks that have
    arrived take part. The probabilities may also weigh the tasks' adapters softly.

    Novelty is the least ``(1 - r)`` over its limit for that task, which the ``abstain`` share of the samples that the
    task was added with exceed.

    Source: HiDe-LLaVA (arXiv:2503.12941), temperature 0.1; its code counts in bfloat16, where the mean silently becomes
    a moving average, starts from random anchors, and lets tasks that were never trained compete.
    """

    kind: ClassVar[str] = "anchor"

    def __init__(
        self,
        encoder: RequestEncoder,
        pictures: PictureEncoder | None = None,
        *,
        temperature: float = 0.1,
        abstain: float | None = None,
    ) -> None:
        super().__init__(encoder, abstain=abstain)
        require_positive(temperature=temperature)
        self.pictures, self.temperature = pictures, temperature
        self._sums: dict[str, list[NDArray[np.float64]]] = {mode: [] for mode in _MODES}
        self._counts: dict[str, list[int]] = {mode: [] for mode in _MODES}
        self._limits: list[float] = []

    def update(self, name: str, samples: Sequence[Sample]) -> None:
        """More samples of a task that is there; its limit stays. Raises ConfigError for one that is not."""
        if name not in self.names:
            raise ConfigError("is no task of the router", item=name, remedy="add_task first")
        self._add(self.names.index(name), self._vectors(samples))

    def _learn(self, name: str, samples: Sequence[Sample]) -> None:
        vectors, task = self._vectors(samples), len(self.names)
        for mode in _MODES:
            self._sums[mode].append(np.zeros(0))
            self._counts[mode].append(0)
        self._add(task, vectors)
        self._limits.append(self._limit(np.maximum(0, 1 - self._similarity(vectors)[:, task])))

    def _decide(self, samples: Sequence[Sample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        similarity = self._similarity(self._vectors(samples))
        novelty = np.maximum(0, 1 - similarity) / np.array(self._limits)
        return softmax(similarity / self.temperature), novelty.min(axis=1)

    def _vectors(self, samples: Sequence[Sample]) -> dict[str, NDArray[np.float64]]:
        found = {"text": encode(self.encoder, samples)}
        if self.pictures is not None:
            found["picture"] = self.pictures(samples)
        return {mode: rows.double().numpy() for mode, rows in found.items()}

    def _add(self, task: int, vectors: dict[str, NDArray[np.float64]]) -> None:
        for mode, rows in vectors.items():
            known = rows[np.isfinite(rows).all(axis=1)]
            if len(known):
                before, total = self._sums[mode][task], known.sum(axis=0)
                self._sums[mode][task] = before + total if before.size else total
                self._counts[mode][task] += len(known)

    def _similarity(self, vectors: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """[N, T]: mean cosine over the kinds of vectors that request and task both have."""
        cosines = np.stack(
            [np.stack([_cosine(rows, anchor) for anchor in self._sums[mode]], axis=1) for mode, rows in vectors.items()]
        )
        shared = np.isfinite(cosines)
        return np.where(shared, cosines, 0).sum(axis=0) / shared.sum(axis=0)  # texts are always shared

    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "abstain": self.abstain}

    def state(self) -> dict[str, NDArray[Any]]:
        sums = {f"{mode}_{i}": total for mode in _MODES for i, total in enumerate(self._sums[mode])}
        counts = {f"{mode}_counts": np.array(self._counts[mode], np.int64) for mode in _MODES}
        return sums | counts | {"limits": np.array(self._limits)}

    def restore(self, names: list[str], state: dict[str, NDArray[Any]]) -> None:
        counts = {mode: state[f"{mode}_counts"].tolist() for mode in _MODES}
        if len(counts["text"]) != len(names) or len(state["limits"]) != len(names):
            raise ValueError("anchors do not fit the names of the tasks")
        self._sums = {mode: [state[f"{mode}_{i}"] for i in range(len(counts[mode]))] for mode in _MODES}
        self.names, self._counts, self._limits = names, counts, state["limits"].tolist()


def _cosine(rows: NDArray[np.float64], anchor: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN for a row of NaN (all are, of any width, where no request has a picture) and without an anchor; 0 for a zero
    row or a zero anchor."""
    if not anchor.size or np.isnan(rows).all():
        return np.full(len(rows), np.nan)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(anchor)
    return np.divide(rows @ anchor, norms, out=np.where(np.isnan(norms), np.nan, 0.0), where=norms > 0)
