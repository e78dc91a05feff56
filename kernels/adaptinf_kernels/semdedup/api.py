"""Near-duplicates inside clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np
import torch
from adaptinf_kernels._arrays import as_matrix, like
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.semdedup import borders as borders_of
from adaptinf_kernels.semdedup import ops  # noqa: F401 - registers the op
from adaptinf_kernels.semdedup.budget import Budget, kept_counts, lowest
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)
Keep = Literal["greedy", "reference", "components"]
Borders = Literal["ignore", "exact"]


@dataclass(frozen=True, eq=False)
class SemDedupResult(Generic[Array]):
    """What stays; row-aligned. With a sequence of E thresholds every array is [E, N].

    Attributes:
        kept: bool [N].
        duplicate_of: int64 [N], for a removed row the row that it duplicates (see ``keep``), -1 for a kept one.
        max_similarity: float32 [N], the largest cosine to a row that comes before (see ``keep``); NaN where none does.
    """

    kept: Array
    duplicate_of: Array
    max_similarity: Array


def semdedup(
    x: Array,
    labels: Array | Sequence[int] | None = None,
    *,
    eps: float | Sequence[float] | None = None,
    budget: Budget | Sequence[Budget] | None = None,
    keep: Keep = "greedy",
    rank: Array | Sequence[float] | None = None,
    borders: Borders = "ignore",
    impl: Impl = "auto",
) -> SemDedupResult[Array]:
    """Remove rows that are near-duplicates of rows of lower rank in the same cluster.

    ``s(i, j)`` is the cosine: of unit rows in float32, summed in float64 in an order that ``README.md`` defines, at
    most 1, and 1 between rows that are equal after normalisation; 0 with a zero row. What is removed is therefore the
    same on every implementation and machine, for any number of threads. Memory is O(N d), never [N, N].

    ``keep="greedy"``: only kept rows count as coming before. ``eps`` removes j where a kept row has
    ``s > 1 - eps``, so every removed row points to the kept row that it is most alike, and no two kept rows are that
    similar. A ``budget`` keeps the first row of each cluster, then again and again the row least similar to all kept
    ones of its cluster (farthest first), ties by rank; one for all clusters takes that row wherever it is.

    ``keep="reference"`` is SemDeDup (Algorithm A7): with the rows of a cluster in order of rank,
    ``M_j = max_{i < j} s(i, j)``, whether or not i itself stays. ``eps`` removes j where ``M_j > 1 - eps``; a
    ``budget`` keeps exactly that many rows with the lowest M, the first of a cluster before all others, ties by rank:
    it is one quantile of M. The released code takes the maximum with 0 as well; here M may be negative.

    ``keep="components"``: the first row of each connected component of the pairs with ``s > 1 - eps`` stays, and the
    others point to it, though only a chain of similar rows may lead there; ``max_similarity`` is M.

    ``borders="exact"`` finds the pairs with ``s > 1 - eps`` across clusters too: what is removed, and what it
    duplicates, is then that of one cluster of all rows, at the cost of the clusters and of the rows near their borders
    (``borders.py``: a margin of ``sqrt(2 eps)``; with many clusters or a large eps that is most rows). A
    ``max_similarity`` that does not exceed ``1 - eps`` is still that inside the cluster. It takes ``eps``, and
    "reference" or "components"; with "greedy" the clusters would have to be decided one after the other.

    Args:
        x: [N, d], torch or NumPy, floating point; the result is of the same family.
        labels: [N] integers, the clusters; None is one cluster.
        eps: 0 to 2, or a sequence of such thresholds; "reference" and "components" compare rows once for all of them.
            0 removes nothing. Give either ``eps`` or ``budget``.
        budget: rows to keep in all, or a sequence with one number per cluster, in ascending order of the labels that
            occur. An int is a count, a float a share from 0 to 1, rounded half up. Not for "components".
        keep: "greedy", "reference" or "components".
        rank: [N], lower comes first, ties by row; None is the order of the rows.
        borders: "ignore" or "exact".
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: parts are not row-aligned, ``x`` has no columns or a NaN or infinity (its row is named), a budget
            beyond the rows, or ``borders="exact"`` with a budget or with "greedy".
        TypeError: ``x`` is no floating-point matrix, ``labels`` are no integers, or a budget is no number.
        NotSupportedError: ``impl`` cannot run on these inputs.

    Source: Abbas et al. 2023 (SemDeDup), Algorithm A7; Gonzalez 1985 (farthest first).
    """
    matrix = as_matrix("x", x)
    n, device = len(matrix), matrix.device
    if n and matrix.shape[1] == 0:
        raise ValueError(f"x is [{n}, 0]: rows without columns have no similarity")
    if keep not in get_args(Keep):
        raise ValueError(f"keep={keep!r}: choose from {', '.join(get_args(Keep))}")
    if (eps is None) == (budget is None):
        raise ValueError("give either eps or budget")
    if borders not in get_args(Borders):
        raise ValueError(f"borders={borders!r}: choose from {', '.join(get_args(Borders))}")
    if borders == "exact" and (eps is None or keep == "greedy"):
        raise ValueError("borders='exact' takes eps, and keep='reference' or 'components'")
    thresholds = [] if eps is None else _thresholds(eps)
    clusters, order = _labels(labels, n, device), _order(rank, n, device)
    sizes = torch.bincount(clusters)
    bounds = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    by_cluster = clusters[order].argsort(stable=True)  # places in the order of all rows
    rows = order[by_cluster]
    counts = None
    if budget is not None:
        if keep == "components":
            raise ValueError("keep='components' takes eps: a component is one whatever the budget")
        counts = kept_counts(budget, sizes)
    is_quantile = counts is not None and keep == "reference"
    kept, before, similarity = torch.ops.adaptinf_kernels.semdedup(
        matrix,
        rows,
        bounds,
        by_cluster,
        "farthest" if counts is not None and keep == "greedy" else keep,
        [float("inf")] if is_quantile else thresholds,
        None if is_quantile else counts,
        impl,
    )
    if is_quantile and counts is not None:
        kept = lowest(similarity[0], bounds, by_cluster, counts)[None]
    before = torch.where(kept | (before < 0), -1, rows[before.clamp_min(0)] if n else before)
    back = torch.empty_like(rows).scatter_(0, rows, torch.arange(n, device=device))
    if borders == "exact" and len(sizes) > 1:
        kept, before, similarity = _across(matrix, clusters, order, keep, thresholds, similarity[:, back], impl)
        back = torch.arange(n, device=device)
    found = (kept, before, similarity.clamp(-1, 1).float())
    parts = [part[:, back] if isinstance(eps, Sequence | np.ndarray) else part[0, back] for part in found]
    return SemDedupResult(*(like(x, part) for part in parts))


def _across(
    x: Tensor, clusters: Tensor, order: Tensor, keep: Keep, thresholds: list[float], inside: Tensor, impl: Impl
) -> tuple[Tensor, Tensor, Tensor]:
    """``(kept, duplicate_of, similarity)`` by row, [E, N], with the pairs across clusters.

    ``inside`` [E, N] is the similarity inside the clusters.
    """
    n, least = len(x), min(thresholds)
    guests, hosts = borders_of.with_guests(x, clusters, int(clusters.max()) + 1, 1 - least)
    position = torch.empty_like(order).scatter_(0, order, torch.arange(n, device=x.device))
    rows, to = torch.cat([torch.arange(n, device=x.device), guests]), torch.cat([clusters, hosts])
    places = position[rows].argsort(stable=True)
    places = places[to[places].argsort(stable=True)]
    rows, own = rows[places], places < n
    bounds = torch.nn.functional.pad(torch.bincount(to).cumsum(0), (1, 0))
    kept, before, similarity = torch.ops.adaptinf_kernels.semdedup(
        x, rows, bounds, position[rows], keep, thresholds, None, impl
    )
    back = torch.empty_like(order).scatter_(0, rows[own], own.nonzero()[:, 0])
    found = similarity[:, back]
    similarity = torch.where(found > least, found, inside)
    before = torch.where(before < 0, -1, rows[before.clamp_min(0)])
    if keep == "reference":
        kept, before = kept[:, back], before[:, back]
    else:  # a row joins the components of all the clusters that it is looked at in
        parents = torch.where(before < 0, rows, before)
        alone = torch.arange(n, device=x.device)
        first = torch.stack([borders_of.joined(alone, position[parent], position[rows]) for parent in parents])[
            :, position
        ]
        before = order[first]
        kept = before == alone
    return kept, torch.where(kept, -1, before), similarity


def _thresholds(eps: float | Sequence[float]) -> list[float]:
    each = list(eps) if isinstance(eps, Sequence | np.ndarray) else [eps]
    if not each:
        raise ValueError("eps is empty: give at least one threshold")
    for one in each:
        if isinstance(one, bool) or not isinstance(one, (int, float, np.integer, np.floating)):
            raise TypeError(f"eps must be a number or a sequence of numbers, not {one!r}")
        if not 0 <= one <= 2:
            raise ValueError(f"eps={one} must be from 0 to 2")
    return [1 - float(one) for one in each]


def _labels(labels: Any, n: int, device: torch.device) -> Tensor:
    """The clusters renumbered from 0, in ascending order."""
    if labels is None:
        return torch.zeros(n, dtype=torch.int64, device=device)
    groups = torch.as_tensor(labels, device=device)
    if groups.shape != (n,):
        raise ValueError(f"labels must be [N={n}], not {list(groups.shape)}")
    if n and (groups.is_floating_point() or groups.is_complex() or groups.dtype == torch.bool):
        raise TypeError(f"labels must be integers, not {groups.dtype}")
    return groups.unique(return_inverse=True)[1]


def _order(rank: Any, n: int, device: torch.device) -> Tensor:
    """Row numbers, lowest rank first."""
    if rank is None:
        return torch.arange(n, device=device)
    ranks = torch.as_tensor(rank, device=device)
    if ranks.shape != (n,):
        raise ValueError(f"rank must be [N={n}], not {list(ranks.shape)}")
    if ranks.is_floating_point() and ranks.isnan().any():
        raise ValueError(f"rank[{int(ranks.isnan().nonzero()[0])}] is NaN")
    return ranks.argsort(stable=True)
