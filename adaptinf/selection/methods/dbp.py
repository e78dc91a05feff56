"""Density-based pruning: more samples from wide clusters that stand apart, the hardest of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adaptinf.config import SelectionConfig
from adaptinf.selection.methods.method import Choice, ClusterMethod, unit_rows
from adaptinf.selection.pool import Pool
from adaptinf.selection.selector import register_selector

_NEAREST = 20
_TEMPERATURE = 0.5
_BALANCE = 0.5
"""Every cluster gives at least this share of what an even split would ask of it."""


class DensityBasedPruning(ClusterMethod):
    """Clusters by complexity, exactly; in each the samples farthest from its centroid.

    k-means on the hidden means (unit rows). ``d_intra`` is the mean distance ``1 - cos`` of a cluster's samples to its
    centroid, ``d_inter`` the mean ``1 - cos`` of its centroid to the 20 nearest others, ``P = softmax(d_inter d_intra /
    0.5)``. The numbers of samples minimise ``|x - P B|^2 / 2`` under ``sum x = B`` and ``low_c <= x_c <= |c|`` with
    ``low_c = min(floor(B / (2 K)), |c| - 1)``: a quadratic program whose solution is ``x_c = clip(P_c B - u, low_c,
    |c|)`` for the one multiplier u that makes the sum B. Fractions are rounded by largest remainder.

    Source: Abbas et al. 2024, section 3; amro-kamal/effective_pruning, ``prune.py`` (balance 0.5, T = 0.5).
    """

    name = "dbp"

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        unit = unit_rows(pool, "hidden")
        found = self.clusters_of(unit, rng)
        directions = _unit(found.centroids)
        apart = 1 - np.einsum("nd,nd->n", unit, directions[found.labels], dtype=np.float64)
        sizes = np.array(found.sizes)
        intra = np.bincount(found.labels, apart, len(sizes)) / sizes
        shares = allocate(_complexity(directions, intra), sizes, budget)
        order = np.lexsort((np.arange(len(unit)), -apart, found.labels))
        place = np.arange(len(unit)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        chosen = order[place < np.repeat(shares, sizes)]
        return Choice(chosen, apart, "distance to the centroid", found.labels, {"budgets": shares.tolist()})


def _complexity(directions: NDArray[np.float64], intra: NDArray[np.float64]) -> NDArray[np.float64]:
    between = 1 - directions @ directions.T
    np.fill_diagonal(between, np.inf)
    nearest = np.sort(between, axis=1)[:, : min(_NEAREST, len(between) - 1)]
    inter = nearest.mean(axis=1) if nearest.shape[1] else np.ones(1)
    weights = np.exp((inter * intra - (inter * intra).max()) / _TEMPERATURE)
    return weights / weights.sum()


def allocate(share: NDArray[np.float64], sizes: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Whole numbers nearest to ``share * budget`` within the bounds of :class:`DensityBasedPruning`; they sum to
    ``budget``."""
    low = np.minimum(int(budget / len(sizes) * _BALANCE), sizes - 1).astype(np.float64)
    wanted = share * budget
    # The sum falls as the multiplier rises: bisect it between all at their bounds.
    below, above = float((wanted - sizes).min()), float((wanted - low).max())
    for _ in range(200):
        middle = (below + above) / 2
        if np.clip(wanted - middle, low, sizes).sum() > budget:
            below = middle
        else:
            above = middle
    exact = np.clip(wanted - above, low, sizes)
    whole = np.floor(exact + 1e-9).astype(np.int64)
    room = np.flatnonzero(whole < sizes)
    first = room[np.argsort(-(exact - whole)[room], kind="stable")]
    whole[first[: budget - whole.sum()]] += 1
    return whole


def _unit(centroids: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = centroids.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


@register_selector("dbp")
def _dbp(config: SelectionConfig) -> DensityBasedPruning:
    return DensityBasedPruning(config.n_clusters)
