"""Nearest neighbours among a pool's unit rows, and the greedy choice that lowers what is near to the chosen."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

_BLOCK = 1 << 25
"""Similarities that are held at once."""


class Neighbours(NamedTuple):
    """``rows`` int64 [N, m], nearest first, none its own; ``cosines`` float64 [N, m]."""

    rows: NDArray[np.int64]
    cosines: NDArray[np.float64]


def nearest(unit: NDArray[np.float32], m: int) -> Neighbours:
    """The ``min(m, N - 1)`` rows of the largest cosine to each row; exact, in blocks of rows."""
    x = torch.from_numpy(unit)
    m = min(m, len(x) - 1)
    rows, cosines = [], []
    for start in range(0, len(x), step := max(1, _BLOCK // len(x))):
        block = x[start : start + step] @ x.T
        own = torch.arange(len(block))
        block[own, start + own] = -torch.inf
        values, indices = block.topk(m, dim=1)
        rows.append(indices)
        cosines.append(values)
    return Neighbours(torch.cat(rows).numpy(), torch.cat(cosines).double().clamp(-1, 1).numpy())


def greedy(values: NDArray[np.float64], rows: NDArray[np.int64], weights: NDArray[np.float64], count: int) -> list[int]:
    """Choose ``count`` rows one by one: the highest value, after which its neighbours lose value.

    After row i is chosen, ``v_j <- v_j - weights[i, n] v_i`` for each of its neighbours ``j = rows[i, n]`` that is not
    chosen. Equal values: the lower row first. Costs ``O((N + count m) log N)``.
    """
    value = values.tolist()
    open_ = [True] * len(value)
    heap = [(-v, i) for i, v in enumerate(value)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < count:
        negated, i = heapq.heappop(heap)
        if not open_[i] or -negated != value[i]:  # chosen already, or an older value of it
            continue
        open_[i] = False
        chosen.append(i)
        for j, weight in zip(rows[i].tolist(), weights[i].tolist(), strict=True):
            if open_[j]:
                value[j] -= weight * value[i]
                heapq.heappush(heap, (-value[j], j))
    return chosen
