"""Near-duplicates inside clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from adaptinf_kernels._arrays import as_matrix, like
from adaptinf_kernels._dispatch import Impl, Op
from torch import Tensor

_OP = Op("semdedup", "reference")

Array = TypeVar("Array", Tensor, np.ndarray)


@dataclass(frozen=True, eq=False)
class SemDedupResult(Generic[Array]):
    """What stays; row-aligned.

    Attributes:
        kept: bool [N].
        duplicate_of: int64 [N], for a removed row the row that ``max_similarity`` belongs to, -1 for a kept one.
        max_similarity: float32 [N], the largest cosine to a row that comes before (see ``keep``); NaN where none does.
    """

    kept: Array
    duplicate_of: Array
    max_similarity: Array


def semdedup(
    x: Array,
    labels: Array | Sequence[int] | None = None,
    *,
    eps: float | None = None,
    budget: int | Sequence[int] | None = None,
    keep: Literal["greedy", "reference"] = "greedy",
    rank: Array | Sequence[float] | None = None,
    impl: Impl = "auto",
) -> SemDedupResult[Array]:
    """Remove rows that are near-duplicates of rows of lower rank in the same cluster.

    ``keep="reference"`` is SemDeDup (Algorithm A7): with the rows of a cluster in order of rank,
    ``M_j = max_{i < j} cos(x_i, x_j)``, whether or not i itself stays. ``eps`` removes j where ``M_j > 1 - eps``; a
    ``budget`` keeps exactly that many rows with the lowest M, the first of a cluster before all others, ties by rank.
    The released code takes the maximum with 0 as well; here M may be negative.

    ``keep="greedy"``: only kept rows count as coming before. ``eps`` removes j where a kept row has
    ``cos > 1 - eps``, so every removed row points to a kept one, and no two kept rows are that similar. A ``budget``
    keeps the first row of each cluster, then again and again the row least similar to all kept ones (farthest first).

    Cosines are float32 over rows normalised here; a zero row has cosine 0 to everything. Never holds [N, N].

    Args:
        x: [N, d], torch or NumPy, floating point; the result is of the same family.
        labels: [N] integers, the clusters; None is one cluster.
        eps: 0 to 2. Give either ``eps`` or ``budget``.
        budget: rows to keep in all, or one number per cluster, in ascending order of the labels that occur. ``greedy``
            over several clusters needs the latter.
        keep: "greedy" or "reference".
        rank: [N], lower comes first, ties by row; None is the order of the rows.
        impl: "auto" or "reference".

    Raises:
        ValueError: parts are not row-aligned, a NaN or infinity (its row is named), or a budget beyond the rows.
        TypeError: ``x`` is no floating-point matrix, or ``labels`` are no integers.
        NotSupportedError: ``impl`` cannot run on these inputs.

    Source: Abbas et al. 2023 (SemDeDup), Algorithm A7; Gonzalez 1985 (farthest first).
    """
    matrix = as_matrix("x", x)
    n = len(matrix)
    if keep not in ("greedy", "reference"):
        raise ValueError(f"keep={keep!r}: choose from greedy, reference")
    if (eps is None) == (budget is None):
        raise ValueError("give either eps or budget")
    if eps is not None and not 0 <= eps <= 2:
        raise ValueError(f"eps={eps} must be from 0 to 2")
    groups, order = _labels(labels, n, matrix.device), _order(rank, n, matrix.device)
    shares = None if budget is None else _budget(budget, groups, keep)
    kept, duplicate_of, similarity = _OP(impl, matrix, order, groups, eps, shares, keep == "greedy")
    return SemDedupResult(like(x, kept), like(x, duplicate_of), like(x, similarity))


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


def _budget(budget: int | Sequence[int], groups: Tensor, keep: str) -> int | list[int]:
    sizes = torch.bincount(groups).tolist()
    if isinstance(budget, (int, np.integer)):
        if not 0 <= budget <= len(groups):
            raise ValueError(f"budget={budget} of N={len(groups)} rows: it must be from 0 to N")
        if keep == "reference":
            return int(budget)
        if len(sizes) > 1:
            raise ValueError(f"keep='greedy' over {len(sizes)} clusters needs a budget for each of them")
        return [int(budget)] * len(sizes)
    shares = [int(share) for share in budget]
    if len(shares) != len(sizes):
        raise ValueError(f"budget has {len(shares)} numbers for {len(sizes)} clusters")
    for cluster, (share, size) in enumerate(zip(shares, sizes, strict=True)):
        if not 0 <= share <= size:
            raise ValueError(f"budget[{cluster}]={share} of a cluster of {size} rows: it must be from 0 to its size")
    return shares
