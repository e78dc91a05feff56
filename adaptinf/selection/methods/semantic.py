"""SemDeDup as a selector: the samples least alike anything before them in their cluster."""

from __future__ import annotations

import numpy as np

from adaptinf.config import SelectionConfig
from adaptinf.selection.methods.method import Choice, ClusterMethod, unit_rows
from adaptinf.selection.pool import Pool
from adaptinf.selection.selector import register_selector


class SemanticDedup(ClusterMethod):
    """k-means on the hidden means; in every cluster ``M_j = max_{i before j} cos(x_i, x_j)``; the ``budget`` samples of
    the lowest M over the whole pool stay.

    Before are the samples farther from the centroid (the hard ones stay), as in the paper. It removes what is above
    ``1 - eps``; here eps is whatever makes the budget exact, the same for all clusters. Equal M: the earlier sample.

    Source: Abbas et al. 2023, section 3 and algorithm A7; facebookresearch/SemDeDup.
    """

    name = "semdedup"

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        from adaptinf_kernels import semdedup

        unit = unit_rows(pool, "hidden")
        found = self.clusters_of(unit, rng)
        apart = 1 - np.einsum("nd,nd->n", unit, found.centroids[found.labels], dtype=np.float64)
        rank = np.empty(len(unit), np.int64)
        rank[np.lexsort((np.arange(len(unit)), -np.round(apart, 6)))] = np.arange(len(unit))
        result = semdedup(unit, found.labels, budget=budget, keep="reference", rank=rank)
        similarity = result.max_similarity.astype(np.float64)
        return Choice(np.flatnonzero(result.kept), similarity, "similarity to an earlier sample", found.labels)


@register_selector("semdedup")
def _semdedup(config: SelectionConfig) -> SemanticDedup:
    return SemanticDedup(config.n_clusters)
