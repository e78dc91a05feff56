"""COINCIDE: more samples from clusters that transfer and are not dense, those of each that represent it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adaptinf.config import SelectionConfig
from adaptinf.selection.budget import proportional
from adaptinf.selection.methods.method import Choice, ClusterMethod, unit_rows
from adaptinf.selection.pool import Pool
from adaptinf.selection.selector import register_selector

_SAME = 0.9
_TEMPERATURE = 0.1
_BLOCK = 1 << 24
"""Kernel values that are held at once."""


class Coincide(ClusterMethod):
    """Clusters by transferability over density; in each a greedy choice that keeps its distribution.

    k-means on the hidden means (unit rows), then for cluster c with centroid ``m_c``:

    - transferability ``T_c``: the mean of ``cos(m_c, m_e)`` over the clusters e with ``cos <= 0.9``, itself left out;
    - density ``D_c``: the mean of ``k(x, y) = exp(-|x - y|^2 / 2)`` over the pairs of its samples;
    - its share of the budget follows ``softmax(T_c / (0.1 D_c))``, capped by its size, what it cannot take going to
      the others in proportion;
    - its samples are added one by one so as to minimise ``MMD^2`` to the whole cluster under k.

    Left open by the material: which features stand in for TinyLLaVA's activations of five layers (we take the hidden
    means that are there), and T of a cluster with no other below 0.9 (0).

    Source: Lee et al. 2024 (EMNLP), section 3; G-JWLee/COINCIDE_code, ``COINCIDE_cluster/``; the greedy choice is that
    of MMD-critic (Kim et al. 2016).
    """

    name = "coincide"

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        unit = unit_rows(pool, "hidden").astype(np.float64)
        found = self.clusters_of(unit.astype(np.float32), rng)
        members = [np.flatnonzero(found.labels == c) for c in range(found.k)]
        means = [_kernel_means(unit[rows]) for rows in members]
        density = np.array([mean.mean() for mean in means])
        transfer = transferability(found.centroids.astype(np.float64))
        value = transfer / (_TEMPERATURE * density)
        shares = proportional(np.exp(value - value.max()), found.sizes, budget)
        chosen = np.concatenate(
            [rows[represent(unit[rows], mean, n)] for rows, mean, n in zip(members, means, shares, strict=True)]
        )
        facts = {"budgets": shares, "transferability": transfer.tolist(), "density": density.tolist()}
        return Choice(chosen, value[found.labels], "transferability over density", found.labels, facts)


def transferability(centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """T of every cluster."""
    unit = centroids / np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-300)
    cosines = unit @ unit.T
    other = cosines <= _SAME
    np.fill_diagonal(other, val=False)
    return np.where(other, cosines, 0).sum(axis=1) / np.maximum(other.sum(axis=1), 1)


def represent(rows: NDArray[np.float64], means: NDArray[np.float64], count: int) -> list[int]:
    """``count`` rows, each the one that brings MMD^2 between the chosen and all rows lowest; ties: the first.

    With ``means[i]`` the mean of k(x_i, .) over all rows, ``MMD^2`` of a choice S is, up to a constant, ``sum_{s, t in
    S} k(s, t) / |S|^2 - 2 sum_{s in S} means[s] / |S|``.
    """
    chosen: list[int] = []
    to_chosen = np.zeros(len(rows))  # sum of k to the chosen
    among, reach = 0.0, 0.0  # sums over the chosen: of k among them, of their means
    free = np.ones(len(rows), bool)
    for size in range(1, count + 1):
        discrepancy = (among + 2 * to_chosen + 1) / size**2 - 2 * (reach + means) / size
        i = int(np.argmin(np.where(free, np.round(discrepancy, 12), np.inf)))
        chosen.append(i)
        free[i] = False
        among += 2 * to_chosen[i] + 1
        reach += means[i]
        to_chosen += _kernel(rows[i : i + 1], rows)[0]
    return chosen


def _kernel_means(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    step = max(1, _BLOCK // len(rows))
    return np.concatenate([_kernel(rows[i : i + step], rows).mean(axis=1) for i in range(0, len(rows), step)])


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return np.exp(-np.maximum(squared, 0) / 2)


@register_selector("coincide")
def _coincide(config: SelectionConfig) -> Coincide:
    return Coincide(config.n_clusters)
