"""De-duplication of one cluster after the other, a block of similarities at a time."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 1024
"""Rows compared at once; a block of similarities has its square."""


def not_supported_reasons(
    x: Tensor, order: Tensor, labels: Tensor, eps: float | None, budget: int | list[int] | None, greedy: bool
) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(
    x: Tensor, order: Tensor, labels: Tensor, eps: float | None, budget: int | list[int] | None, greedy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(kept, duplicate_of, max_similarity); ``order`` is all rows by rank, ``labels`` are 0 to C - 1, none unused."""
    kept = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    nearest = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    similarity = torch.full((len(x),), float("nan"), dtype=torch.float32, device=x.device)
    by_cluster = order[labels[order].argsort(stable=True)].split(torch.bincount(labels).tolist())
    for cluster, rows in enumerate(by_cluster):
        unit = unit_rows(x[rows])
        if greedy and eps is not None:
            kept[rows], before, similarity[rows] = _greedy(unit, 1 - eps)
        elif greedy and isinstance(budget, list):
            kept[rows], before, similarity[rows] = _farthest_first(unit, budget[cluster])
        else:
            before, similarity[rows] = _most_similar_before(unit)
            if isinstance(budget, list):
                kept[rows] = _lowest(similarity[rows], budget[cluster])
        nearest[rows] = torch.where(before >= 0, rows[before.clamp_min(0)], -1)
    if not greedy and eps is not None:
        kept = ~(similarity.double() > 1 - eps)
    elif not greedy and isinstance(budget, int):
        kept[order] = _lowest(similarity[order], budget)
    return kept, torch.where(kept, -1, nearest), similarity


def unit_rows(x: Tensor) -> Tensor:
    """Rows of unit length in float32, for finite rows of any magnitude; zero rows stay zero."""
    largest = x.abs().amax(1, keepdim=True)
    rows = (x / torch.where(largest == 0, 1, largest)).float()
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64).float()
    return rows / torch.where(norm == 0, 1, norm)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T).clamp_(-1, 1)


def _undefined(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(the most similar row so far, its cosine): none yet."""
    before = torch.full((n,), -1, dtype=torch.int64, device=device)
    return before, torch.full((n,), float("-inf"), dtype=torch.float32, device=device)


def _raise(before: Tensor, value: Tensor, cosines: Tensor, rows: Tensor) -> None:
    """Take the largest of ``cosines`` [n, m] with ``rows`` [m] where it exceeds ``value``; ties to the earliest."""
    largest = cosines.max(1, keepdim=True).values
    first = (cosines == largest).int().argmax(1)
    better = largest[:, 0] > value
    value[better] = largest[better, 0]
    before[better] = rows[first[better]]


def _defined(value: Tensor) -> Tensor:
    return value.masked_fill(value == float("-inf"), float("nan"))


def _most_similar_before(unit: Tensor) -> tuple[Tensor, Tensor]:
    """``M_j = max_{i < j} cos(i, j)`` and the i that attains it."""
    n, device = len(unit), unit.device
    before, value = _undefined(n, device)
    for start in range(0, n, _BLOCK):
        mine = slice(start, min(start + _BLOCK, n))
        for other in range(0, mine.stop, _BLOCK):
            theirs = torch.arange(other, min(other + _BLOCK, n), device=device)
            cosines = _cosines(unit[mine], unit[theirs])
            if other == start:
                cosines.masked_fill_(torch.ones_like(cosines, dtype=torch.bool).triu(), float("-inf"))
            _raise(before[mine], value[mine], cosines, theirs)
    return before, _defined(value)


def _greedy(unit: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """In order, keep a row unless a kept one is more similar than the threshold."""
    n, device = len(unit), unit.device
    before, value = _undefined(n, device)
    kept = torch.zeros(n, dtype=torch.bool, device=device)
    for start in range(0, n, _BLOCK):
        mine = slice(start, min(start + _BLOCK, n))
        for earlier in kept[:start].nonzero()[:, 0].split(_BLOCK) if start else ():
            _raise(before[mine], value[mine], _cosines(unit[mine], unit[earlier]), earlier)
        cosines = _cosines(unit[mine], unit[mine])
        for row in range(mine.start, mine.stop):
            if float(value[row]) > threshold:
                continue
            kept[row] = True
            later = slice(row + 1, mine.stop)
            column = cosines[row - start + 1 :, row - start : row - start + 1]
            if len(column):
                _raise(before[later], value[later], column, torch.tensor([row], device=device))
    return kept, before, _defined(value)


def _farthest_first(unit: Tensor, budget: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the first row, then again and again the one least similar to all kept ones; ties to the earliest."""
    n, device = len(unit), unit.device
    before, value = _undefined(n, device)
    kept = torch.zeros(n, dtype=torch.bool, device=device)
    for _ in range(budget):
        open_value = value.masked_fill(kept, float("inf"))
        row = int((open_value == open_value.min()).int().argmax())
        kept[row] = True
        rest = ~kept
        cosines = _cosines(unit, unit[row : row + 1])[:, 0]
        better = rest & (cosines > value)
        value[better] = cosines[better]
        before[better] = row
    return kept, before, _defined(value)


def _lowest(value: Tensor, budget: int) -> Tensor:
    """The ``budget`` lowest values, undefined ones first, ties to the earliest."""
    keep = torch.zeros(len(value), dtype=torch.bool, device=value.device)
    keep[value.nan_to_num(nan=float("-inf"), neginf=float("-inf")).argsort(stable=True)[:budget]] = True
    return keep
