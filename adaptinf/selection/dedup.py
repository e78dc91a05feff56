"""Semantic de-duplication of a matrix of embeddings: k-means, then near-duplicates inside each cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from adaptinf.errors import ClusterCountError, ConfigError, NonFiniteError
from adaptinf.progress import progress

if TYPE_CHECKING:
    from adaptinf_kernels.kmeans.result import KMeansResult
    from torch import Tensor
    from tqdm import tqdm

Rank = Literal["given", "hard", "easy"]
Keep = Literal["greedy", "reference", "components"]

SAMPLE = 128
"""Rows per cluster that k-means is fitted to, where there are more."""

ITERATIONS = 20
"""Of k-means, at most."""

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
    rows: NDArray[np.floating[Any]] | Tensor,
    eps: float | None = None,
    *,
    budget: float | None = None,
    per_cluster: bool = False,
    clusters: int | None = None,
    keep: Keep = "greedy",
    rank: Rank = "given",
    seed: int = 0,
) -> DedupResult:
    """Remove rows whose cosine to one before them in their cluster exceeds ``1 - eps``, or all but a budget.

    Spherical k-means is fitted to at most 128 rows a cluster, drawn by ``seed``, from as many distinct rows as there
    are clusters (as SemDeDup's released code); every row then goes to its nearest centroid. Near-duplicates in two
    clusters are not found: fewer clusters miss fewer and cost more, one misses none. Beside ``rows`` (which may be a
    memory map) memory is O(N), the sample, and with ``eps`` a block of rows with their clusters.

    Args:
        rows: finite floats [N, d], on the CPU.
        eps: 0 to 2. Give either this or ``budget``.
        budget: rows to keep: an int is a count, a float a share from 0 to 1, rounded half up. See
            ``adaptinf_kernels.semdedup`` for which rows those are; not for "components".
        per_cluster: the budget is that of each cluster (of those with fewer rows all stay), not of all rows.
        clusters: default: the square root of N, which balances the two steps.
        keep: see ``adaptinf_kernels.semdedup``.
        rank: which of two near-duplicates comes first: "given", the first row; "hard", the one farther from its
            centroid (the paper's choice); "easy", the nearer one.
        seed: of the sample and of k-means.

    Raises:
        ClusterCountError: more clusters than rows.
        ConfigError: an unknown ``keep`` or ``rank``, an impossible ``eps`` or ``budget``, or both or none of them.
        NonFiniteError: a row is not finite.
    """
    import torch

    matrix = torch.as_tensor(rows)
    n = len(matrix)
    _check_options(n, eps, budget, per_cluster, keep, rank)
    if clusters is None:
        clusters = max(1, round(math.sqrt(n)))
    if n and not 1 <= clusters <= n:
        raise ClusterCountError(f"{clusters} clusters of {n} rows", item="clusters", remedy="give a number from 1 to N")
    _check_finite(matrix)
    found = DedupResult(
        np.zeros(n, np.int64), np.ones(n, bool), np.full(n, -1, np.int64), np.full(n, np.nan, np.float32)
    )
    distance = np.zeros(n)
    if clusters > 1:
        centroids = _fit(matrix, clusters, seed)
        _label(matrix, centroids, found.cluster, distance)
    places = {"given": np.arange(n), "hard": -distance, "easy": distance}[rank]
    _compare(matrix, eps, budget, per_cluster, keep, places, found)
    return found


def _check_options(n: int, eps: float | None, budget: float | None, per_cluster: bool, keep: Keep, rank: Rank) -> None:
    for value, name, choices in ((keep, "keep", get_args(Keep)), (rank, "rank", get_args(Rank))):
        if value not in choices:
            raise ConfigError("unknown value", item=f"{name}={value}", remedy=f"choose from {', '.join(choices)}")
    if (eps is None) == (budget is None):
        raise ConfigError("one of eps and budget decides", item=f"eps={eps}, budget={budget}", remedy="give either")
    if eps is not None:
        if per_cluster:
            raise ConfigError("is for a budget", item="per_cluster", remedy="leave it out: eps counts in each cluster")
        if not 0 <= eps <= 2:
            raise ConfigError(
                "must be from 0 to 2", item=f"eps={eps}", remedy="0.05 removes where the cosine is above 0.95"
            )
    if budget is not None:
        if keep == "components":
            raise ConfigError("has no budget", item=f"keep={keep}", remedy="give eps, or keep=greedy or reference")
        most = 1.0 if isinstance(budget, float) else n
        if not 0 <= budget <= most:
            raise ConfigError(
                f"must be from 0 to {most}", item=f"budget={budget}", remedy=f"give a share, or a count of the {n} rows"
            )


def _check_finite(matrix: Tensor) -> None:
    for at in range(0, len(matrix), ROWS_AT_ONCE):
        bad = (~matrix[at : at + ROWS_AT_ONCE].isfinite().all(1)).nonzero()
        if len(bad):
            raise NonFiniteError("is not finite", item=f"row {at + int(bad[0])}", remedy="leave such rows out")


class _Passes:
    """Rows that k-means reads a chunk after the other, and a bar of how often it did."""

    def __init__(self, rows: Tensor, bar: tqdm[Any]) -> None:
        self._rows, self._bar = rows, bar

    def __iter__(self) -> Iterator[Tensor]:
        yield from self._rows.split(ROWS_AT_ONCE)
        self._bar.update()


def _fit(matrix: Tensor, clusters: int, seed: int) -> KMeansResult[Tensor]:
    import torch
    from adaptinf_kernels import kmeans

    sample = matrix
    if len(matrix) > SAMPLE * clusters:
        drawn = np.random.default_rng(seed).choice(len(matrix), SAMPLE * clusters, replace=False)
        sample = matrix[torch.from_numpy(np.sort(drawn))]
    with progress(description=f"k-means, {clusters} clusters", total=ITERATIONS + 4, unit="pass") as bar:
        return kmeans(_Passes(sample, bar), clusters, init="random", metric="cosine", max_iter=ITERATIONS, seed=seed)


def _label(
    matrix: Tensor, centroids: KMeansResult[Tensor], cluster: NDArray[np.int64], distance: NDArray[np.float64]
) -> None:
    with progress(description="assign", total=len(matrix), unit="row") as bar:
        for at in range(0, len(matrix), ROWS_AT_ONCE):
            part = matrix[at : at + ROWS_AT_ONCE]
            nearest, away = centroids.top_m(part, 1)
            cluster[at : at + len(part)], distance[at : at + len(part)] = nearest[:, 0], away[:, 0]
            bar.update(len(part))


def _compare(
    matrix: Tensor,
    eps: float | None,
    budget: float | None,
    per_cluster: bool,
    keep: Keep,
    places: NDArray[Any],
    found: DedupResult,
) -> None:
    import torch
    from adaptinf_kernels import semdedup

    def decide(mine: NDArray[np.int64] | slice) -> None:
        labels = found.cluster[mine]
        limit = budget
        if per_cluster:
            sizes = np.unique(labels, return_counts=True)[1].tolist()
            limit = [budget if isinstance(budget, float) else min(budget, size) for size in sizes]
        x = matrix[mine if isinstance(mine, slice) else torch.from_numpy(mine)]
        part = semdedup(
            x, torch.from_numpy(labels), eps=eps, budget=limit, keep=keep, rank=torch.from_numpy(places[mine])
        )
        found.kept[mine] = part.kept
        numbers = np.arange(len(matrix))[mine]
        found.duplicate_of[mine] = np.where(part.duplicate_of < 0, -1, numbers[part.duplicate_of])
        found.max_similarity[mine] = part.max_similarity

    with progress(description="compare", total=len(matrix), unit="row") as bar:
        if budget is not None and not per_cluster:
            decide(slice(None))
            return
        for mine in _whole_clusters(found.cluster):
            decide(mine)
            bar.update(len(mine))


def _whole_clusters(cluster: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Numbers of the rows of whole clusters, about ``ROWS_AT_ONCE`` at a time."""
    by_cluster = np.argsort(cluster, kind="stable")
    ends = np.cumsum(np.bincount(cluster))
    start = 0
    while start < len(cluster):
        following = np.searchsorted(ends, start, "right")  # of the clusters that end later, one at least
        last = max(following, np.searchsorted(ends, start + ROWS_AT_ONCE, "right") - 1)
        yield by_cluster[start : int(ends[last])]
        start = int(ends[last])
