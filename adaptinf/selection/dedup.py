"""Semantic de-duplication of a matrix of embeddings: k-means, then near-duplicates inside each cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from adaptinf.errors import ClusterCountError, ConfigError, NonFiniteError
from adaptinf.progress import progress

Rank = Literal["given", "hard", "easy"]
Keep = Literal["greedy", "reference", "components"]

SAMPLE = 128
"""Rows per cluster that k-means is fitted to, where there are more."""

ROWS_AT_ONCE = 65_536
"""Rows that are labelled, or whose clusters are compared, at a time."""


@dataclass(frozen=True, eq=False)
class DedupResult:
    """Row-aligned.

    Attributes:
        cluster: int64 [N].
        kept: bool [N].
        duplicate_of: int64 [N], the row that a removed one duplicates, -1 for a kept one.
        max_similarity: float32 [N], the largest cosine to a row before it in its cluster; NaN where none is.
    """

    cluster: NDArray[np.int64]
    kept: NDArray[np.bool_]
    duplicate_of: NDArray[np.int64]
    max_similarity: NDArray[np.float32]


def dedup(
    rows: NDArray[np.floating[Any]],
    eps: float,
    *,
    clusters: int | None = None,
    keep: Keep = "greedy",
    rank: Rank = "given",
    seed: int = 0,
) -> DedupResult:
    """Remove rows whose cosine to one before them in their cluster exceeds ``1 - eps``.

    Spherical k-means is fitted to at most 128 rows a cluster, drawn by ``seed``; every row then goes to its nearest
    centroid. Near-duplicates in two clusters are not found: fewer clusters miss fewer and cost more, one misses none.
    Beside ``rows`` (which may be a memory map) memory is O(N), the sample, and a block of rows with their clusters.

    Args:
        rows: finite floats [N, d].
        eps: 0 to 2.
        clusters: default: the square root of N, which balances the two steps.
        keep: see ``adaptinf_kernels.semdedup``.
        rank: which of two near-duplicates comes first: "given", the first row; "hard", the one farther from its
            centroid (the paper's choice); "easy", the nearer one.
        seed: of the sample and of k-means.

    Raises:
        ClusterCountError: more clusters than rows.
        ConfigError: an unknown ``keep`` or ``rank``, or an impossible ``eps``.
        NonFiniteError: a row is not finite.
    """
    for value, name, choices in ((keep, "keep", get_args(Keep)), (rank, "rank", get_args(Rank))):
        if value not in choices:
            raise ConfigError("unknown value", item=f"{name}={value}", remedy=f"choose from {', '.join(choices)}")
    if not 0 <= eps <= 2:
        raise ConfigError(
            "must be from 0 to 2", item=f"eps={eps}", remedy="0.05 removes where the cosine is above 0.95"
        )
    n = len(rows)
    if clusters is None:
        clusters = max(1, round(math.sqrt(n)))
    if n and not 1 <= clusters <= n:
        raise ClusterCountError(f"{clusters} clusters of {n} rows", item="clusters", remedy="give a number from 1 to N")
    _check_finite(rows)
    found = DedupResult(
        np.zeros(n, np.int64), np.ones(n, bool), np.full(n, -1, np.int64), np.full(n, np.nan, np.float32)
    )
    distance = np.zeros(n)
    if clusters > 1:
        _label(rows, clusters, seed, found.cluster, distance)
    places = {"given": np.arange(n), "hard": -distance, "easy": distance}[rank]
    _compare(rows, eps, keep, places, found)
    return found


def _check_finite(rows: NDArray[np.floating[Any]]) -> None:
    for at in range(0, len(rows), ROWS_AT_ONCE):
        bad = np.flatnonzero(~np.isfinite(rows[at : at + ROWS_AT_ONCE]).all(axis=1))
        if len(bad):
            raise NonFiniteError("is not finite", item=f"row {at + int(bad[0])}", remedy="leave such rows out")


def _label(
    rows: NDArray[np.floating[Any]],
    clusters: int,
    seed: int,
    cluster: NDArray[np.int64],
    distance: NDArray[np.float64],
) -> None:
    from adaptinf_kernels import kmeans

    n = len(rows)
    drawn = np.arange(n)
    if n > SAMPLE * clusters:
        drawn = np.sort(np.random.default_rng(seed).choice(n, SAMPLE * clusters, replace=False))
    with progress(description=f"k-means, {clusters} clusters", total=len(drawn), unit="row") as bar:
        fitted = kmeans(np.ascontiguousarray(rows[drawn]), clusters, metric="cosine", max_iter=20, seed=seed)
        bar.update(len(drawn))
    with progress(description="assign", total=n, unit="row") as bar:
        for at in range(0, n, ROWS_AT_ONCE):
            part = np.ascontiguousarray(rows[at : at + ROWS_AT_ONCE])
            nearest, away = fitted.top_m(part, 1)
            cluster[at : at + len(part)], distance[at : at + len(part)] = nearest[:, 0], away[:, 0]
            bar.update(len(part))


def _compare(rows: NDArray[np.floating[Any]], eps: float, keep: Keep, places: NDArray[Any], found: DedupResult) -> None:
    """Whole clusters together, about ``ROWS_AT_ONCE`` rows at a time."""
    from adaptinf_kernels import semdedup

    by_cluster = np.argsort(found.cluster, kind="stable")
    ends = np.cumsum(np.bincount(found.cluster))
    start = 0
    with progress(description="compare", total=len(rows), unit="row") as bar:
        while start < len(rows):
            following = np.searchsorted(ends, start, "right")  # of the clusters that end later, one at least
            last = max(following, np.searchsorted(ends, start + ROWS_AT_ONCE, "right") - 1)
            end = int(ends[last])
            mine = by_cluster[start:end]
            part = semdedup(
                np.ascontiguousarray(rows[mine]), found.cluster[mine], eps=eps, keep=keep, rank=places[mine]
            )
            found.kept[mine] = part.kept
            found.duplicate_of[mine] = np.where(part.kept, -1, mine[part.duplicate_of])
            found.max_similarity[mine] = part.max_similarity
            bar.update(len(mine))
            start = end
