"""How many rows stay, and which, where a budget decides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Budget = int | float


def kept_counts(budget: Budget | Sequence[Budget], sizes: Tensor) -> Tensor:
    """int64 [C], rows to keep of each cluster, or a number without a dimension: of all together.

    Raises ValueError where there are not so many rows, TypeError where it is no number.
    """
    device = sizes.device
    if not isinstance(budget, Sequence | np.ndarray | Tensor):
        n = int(sizes.sum())
        return torch.tensor(_count(budget, n, "budget", f"N={n} rows"), device=device)
    parts = list(budget)
    if len(parts) != len(sizes):
        raise ValueError(f"budget has {len(parts)} numbers for {len(sizes)} clusters")
    counts = [
        _count(share, size, f"budget[{cluster}]", f"a cluster of {size} rows")
        for cluster, (share, size) in enumerate(zip(parts, sizes.tolist(), strict=True))
    ]
    return torch.tensor(counts, dtype=torch.int64, device=device)


def lowest(similarity: Tensor, bounds: Tensor, order: Tensor, counts: Tensor) -> Tensor:
    """Bool [N] by place: as many as ``counts`` say with the lowest similarity, none at all first, ties by ``order``."""
    value = similarity.nan_to_num(nan=-math.inf, neginf=-math.inf)
    kept = torch.zeros_like(value, dtype=torch.bool)
    if counts.dim() == 0:
        by_rank = order.argsort()
        kept[by_rank[value[by_rank].argsort(stable=True)[: int(counts)]]] = True
        return kept
    cluster = torch.repeat_interleave(bounds.diff())
    by_value = value.argsort(stable=True)  # places rise with the rank inside a cluster
    by_value = by_value[cluster[by_value].argsort(stable=True)]
    number = torch.arange(len(value), device=value.device) - bounds[cluster]
    kept[by_value] = number < counts[cluster]
    return kept


def _count(budget: Budget, size: int, name: str, of: str) -> int:
    if isinstance(budget, Tensor):
        budget = budget.item()
    if isinstance(budget, (float, np.floating)):
        if not 0 <= budget <= 1:
            raise ValueError(f"{name}={budget} of {of}: a share must be from 0 to 1")
        return math.floor(float(budget) * size + 0.5)
    if isinstance(budget, (bool, np.bool_)) or not isinstance(budget, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number of rows or a share, not {budget!r}")
    if not 0 <= budget <= size:
        raise ValueError(f"{name}={budget} of {of}: it must be from 0 to as many")
    return int(budget)
