"""Permanent pruning: a pool cut to a size by dropping what is most alike inside each cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from adaptinf.errors import ConfigError, DataError, NonFiniteError
from adaptinf.selection.budget import resolve_budget, water_fill
from adaptinf.selection.cluster import normalise
from adaptinf.selection.pool import check_unique, ids_of, order_by_id

Order = Literal["shuffle", "centroid_distance", "given"]
Keep = Literal["reference", "greedy"]


@dataclass(frozen=True, eq=False)
class PruneResult:
    """What stays of a pool; row-aligned with the table.

    Attributes:
        kept: bool [N].
        duplicate_of: int64 [N], for a dropped sample the row it is most alike among those that come before it in its
            cluster (with ``keep="greedy"``, among the kept ones), -1 for a kept sample.
        max_similarity: float64 [N], the cosine to that row, for kept samples too; NaN where nothing comes before.
        reason: a short readable sentence each.
    """

    kept: NDArray[np.bool_]
    duplicate_of: NDArray[np.int64]
    max_similarity: NDArray[np.float64]
    reason: list[str]


def keep_none(n: int) -> PruneResult:
    """The result of giving up all of ``n`` samples, near-duplicates or not."""
    none = np.full(n, -1, np.int64)
    return PruneResult(np.zeros(n, bool), none, np.full(n, np.nan), ["the adapter holds what was learned of it"] * n)


def prune(
    table: pa.Table,
    embeddings: ArrayLike,
    budget: int | float,
    *,
    clusters: ArrayLike | None = None,
    order: Order = "shuffle",
    keep: Keep = "reference",
    seed: int = 0,
) -> PruneResult:
    """Cut a pool to exactly ``min(budget, N)`` samples, retaining few of similar and more of distant samples.

    The budget is water-filled over the clusters. In each, samples stand in an order, ``M_j = max_{i before j} cos(x_i,
    x_j)``, and its share of samples with the lowest ``M`` is kept; the first has nothing before it and is kept first,
    equal ``M`` go by the order. With ``keep="greedy"`` only kept samples count as coming before: the first is kept,
    then again and again the sample that is least alike all kept ones, until the share is full.

    Args:
        table: N rows with the column ``id``.
        embeddings: float [N, d], row-aligned with the table: mean hidden states. A zero row is alike to nothing.
        budget: capacity of the pool, in samples (at or above N nothing is dropped) or as a share of it.
        clusters: int [N], the cluster of each row (any numbers); default: one cluster, which costs N^2 d.
        order: which of two near-duplicates comes first. "shuffle": drawn by ``seed`` and id, whatever the order of the
            table; "centroid_distance": farthest from the mean of its cluster first, as SemDeDup keeps the hard ones
            (ties by id); "given": the table's order, so that older samples stay (the released code).
        keep: "reference" (SemDeDup's M, over all samples before) or "greedy".
        seed: of "shuffle".

    Raises:
        BudgetError: the budget is not positive, or the pool is empty.
        NonFiniteError: an embedding is not finite.
        DataError: a part is not row-aligned.
        ConfigError: unknown ``order`` or ``keep``.

    Source: step 3 of Adapt-infinity, normative specification, item 8; M is that of SemDeDup (Abbas et al., 2023).
    """
    if order not in get_args(Order):
        raise ConfigError("unknown order", item=str(order), remedy=f"choose from {', '.join(get_args(Order))}")
    if keep not in get_args(Keep):
        raise ConfigError("unknown value of keep", item=str(keep), remedy=f"choose from {', '.join(get_args(Keep))}")
    ids = ids_of(table)
    check_unique(ids)
    unit = _unit_rows(embeddings, ids)
    labels = np.zeros(len(ids), dtype=np.int64) if clusters is None else np.asarray(clusters)
    if labels.shape != (len(ids),):
        raise DataError(
            f"have shape {labels.shape} for {len(ids)} ids", item="clusters", remedy="give one number a row"
        )
    budget = resolve_budget(budget, len(ids), capped=True)
    names, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = _rank(ids, unit, labels, len(names), order, seed)
    shares = water_fill(sizes.tolist(), budget)

    from adaptinf_kernels import semdedup

    found = semdedup(unit, labels, budget=shares, keep=keep, rank=rank)

    dropped = np.array([f"dropped: near-duplicate in cluster {name}" for name in names], dtype=object)
    texts = zip(names, shares, sizes, strict=True)
    stays = np.array([f"kept: {share} of {size} of cluster {name}" for name, share, size in texts], dtype=object)
    return PruneResult(
        kept=found.kept,
        duplicate_of=found.duplicate_of,
        max_similarity=found.max_similarity.astype(np.float64),
        reason=np.where(found.kept, stays[labels], dropped[labels]).tolist(),
    )


def _unit_rows(embeddings: ArrayLike, ids: list[str]) -> NDArray[np.float32]:
    matrix = np.asarray(embeddings)
    if matrix.ndim != 2 or len(matrix) != len(ids):
        raise DataError(
            f"have shape {matrix.shape} for {len(ids)} ids", item="embeddings", remedy="give one row a sample"
        )
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise NonFiniteError(
            f"{len(bad)} of {len(ids)} embeddings are not finite",
            item=", ".join(ids[i] for i in bad[:5]),
            remedy="look at these samples, or leave them out of the pool",
        )
    return normalise(matrix)[0]


def _rank(
    ids: list[str], unit: NDArray[np.float32], labels: NDArray[np.intp], k: int, order: Order, seed: int
) -> NDArray[np.int64]:
    """int64 [N]: the place of every row in the order, 0 first."""
    if order == "given":
        return np.arange(len(ids), dtype=np.int64)
    if order == "shuffle":
        rows = order_by_id(ids)[np.random.default_rng(seed).permutation(len(ids))]
    else:
        centres = normalise(np.stack([unit[labels == c].sum(axis=0, dtype=np.float64) for c in range(k)]))[0]
        to_centre = np.einsum("nd,nd->n", unit, centres[labels])
        rows = np.lexsort((np.argsort(order_by_id(ids)), np.round(to_centre, 6)))
    return np.argsort(rows).astype(np.int64)
