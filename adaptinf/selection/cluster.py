"""Pseudo-skills: k-means over the unit-length features of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adaptinf.errors import ClusterCountError, ConfigError, NonFiniteError
from adaptinf.selection.backends import Backend, fit

ELBOW_COUNTS = tuple(range(5, 51, 5))
"""Cluster counts that ``k="auto"`` tries."""

ELBOW_ROWS = 50_000
"""The elbow's curve is measured on at most so many rows, drawn by seed; the clustering itself uses all."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """Labels int32 [N], numbered from the largest cluster to the smallest; inertia is that of unit vectors.

    Where the features have fewer distinct directions than clusters were asked, there are only as many clusters.
    ``elbow`` holds the counts that "auto" tried with their inertia, and is empty where the count was given.
    """

    labels: NDArray[np.int32]
    centroids: NDArray[np.float32]
    sizes: list[int]
    inertia: float
    n_iter: int
    elbow: list[tuple[int, float]]
    zero_rows: int

    @property
    def k(self) -> int:
        return len(self.sizes)


def cluster(
    features: NDArray[np.floating], k: int | Literal["auto"] = 10, *, seed: int = 0, backend: Backend = "adaptinf"
) -> Clustering:
    """Euclidean k-means on L2-normalised rows.

    ``k="auto"`` runs k-means for every count of ``ELBOW_COUNTS`` that the pool allows and takes the elbow of the
    inertia (see ``elbow``); the curve is kept. A zero row has no direction and stays at the origin (counted).

    Args:
        features: finite floats [N, d].
        k: number of clusters, or "auto".
        seed: of the initial centroids.
        backend: whose k-means: "adaptinf", "faiss" (CPU) or "cuvs" (GPU); see ``adaptinf.selection.backends.fit``.

    Raises:
        ClusterCountError: k is larger than N, or "auto" and N is smaller than the least count tried.
        ConfigError: k is no count, or the backend is unknown.
        MissingDependencyError: the backend is not installed, or finds no device.
        NonFiniteError: a feature is not finite.

    Source: step 1 of Adapt-infinity, normative specification, item 2.
    """
    unit, zero_rows = normalise(features)
    n, curve = len(unit), []
    if k == "auto":
        k, curve = _elbow_count(unit, seed, backend)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ConfigError(f"must be a whole number of 1 or more, or 'auto', got {k!r}", item="n_clusters")
    if k > n:
        raise ClusterCountError(
            f"{k} clusters were asked of {n} samples", item="n_clusters", remedy=f"ask for at most {n} clusters"
        )
    found = fit(unit, int(k), seed, backend)
    sizes = np.bincount(found.labels, minlength=int(k))
    largest_first = np.argsort(-sizes, kind="stable")
    number = np.empty(int(k), dtype=np.int32)
    number[largest_first] = np.arange(int(k), dtype=np.int32)
    largest_first = largest_first[: np.count_nonzero(sizes)]
    return Clustering(
        labels=number[found.labels],
        centroids=found.centroids[largest_first],
        sizes=sizes[largest_first].tolist(),
        inertia=found.inertia,
        n_iter=found.n_iter,
        elbow=curve,
        zero_rows=zero_rows,
    )


def elbow(curve: Sequence[tuple[int, float]]) -> int:
    """The count at which the inertia falls farthest below the chord from the first point of its curve to the last.

    Both axes are scaled to [0, 1] and the inertia is made non-increasing first (a local optimum can break that). A
    curve that nowhere falls below its chord has no elbow: the smallest count is taken, as it is with ties.
    """
    counts = np.array([count for count, _ in curve], dtype=np.float64)
    inertia = np.minimum.accumulate(np.array([value for _, value in curve], dtype=np.float64))
    if len(curve) < 3 or inertia[0] <= inertia[-1]:
        return int(counts[0])
    along = (counts - counts[0]) / (counts[-1] - counts[0])
    height = (inertia - inertia[-1]) / (inertia[0] - inertia[-1])
    return int(counts[int(np.argmax(np.round((1 - along) - height, 12)))])


def normalise(features: NDArray[np.floating]) -> tuple[NDArray[np.float32], int]:
    """Rows of unit length in float32, and how many were zero and stay so; finite rows of any magnitude are safe."""
    rows = np.asarray(features)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    if not np.isfinite(largest).all():
        raise NonFiniteError(
            "has a NaN or an infinity",
            item=f"row {int(np.flatnonzero(~np.isfinite(largest[:, 0]))[0])} of the features",
            remedy="leave that sample out",
        )
    zero = largest[:, 0] == 0
    unit = np.ascontiguousarray(rows / np.where(largest == 0, 1, largest), dtype=np.float32)
    unit /= np.where(zero[:, None], 1, np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    return unit, int(zero.sum())


def _elbow_count(unit: NDArray[np.float32], seed: int, backend: Backend) -> tuple[int, list[tuple[int, float]]]:
    counts = [count for count in ELBOW_COUNTS if count <= len(unit)]
    if not counts:
        raise ClusterCountError(
            f"'auto' needs at least {ELBOW_COUNTS[0]} samples, the pool has {len(unit)}",
            item="n_clusters",
            remedy="give a number of clusters",
        )
    rows = unit
    if len(unit) > ELBOW_ROWS:
        rows = unit[np.sort(np.random.default_rng(seed).choice(len(unit), ELBOW_ROWS, replace=False))]
    curve = [(count, fit(rows, count, seed, backend).inertia) for count in counts]
    return elbow(curve), curve
