"""Lloyd's iteration, wherever the rows lie."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import torch
from adaptinf_kernels.kmeans.arithmetic import Frame, framed, integers, largest_of_each, means, shift
from adaptinf_kernels.kmeans.ops import Assigned, Empty, Fit
from adaptinf_kernels.kmeans.rows import Rows
from torch import Tensor


def lloyd(
    rows: Rows,
    centroids: Tensor,
    frame: Frame,
    *,
    threshold: float,
    by_inertia: bool,
    max_iter: int,
    empty: Empty,
    spherical: bool,
) -> Fit:
    """One problem's fit; ``frame`` has B = 1. Labels are those of the local rows."""
    state = rows.accumulate(centroids)
    n_iter, changed, settled = 0, 0, False
    while n_iter < max_iter and not settled:
        n_iter += 1
        sums, weights = _refilled(rows, state, frame, empty, spherical)
        updated = means(sums, weights, frame, centroids, spherical)
        following = rows.accumulate(updated)
        changed = int(rows.total((following.labels != state.labels).sum()))
        before, after = int(state.inertia), int(following.inertia)
        if by_inertia:
            settled = changed == 0 or float(before - after) <= threshold * float(before)
        else:
            settled = changed == 0 or shift(updated, centroids) <= threshold
        centroids, state = updated, following
    return Fit(
        labels=state.labels,
        centroids=centroids,
        sizes=state.sizes,
        weights=state.weights,
        radii=rows.together(largest_of_each(state.labels, state.distances, len(centroids))[None]).amax(0),
        inertia=state.inertia.reshape(1),
        n_iter=torch.tensor([n_iter], device=centroids.device),
        changed=torch.tensor([changed], device=centroids.device),
    )


def _refilled(rows: Rows, state: Assigned, frame: Frame, empty: Empty, spherical: bool) -> tuple[Tensor, Tensor]:
    """Sums and weights once empty clusters have taken rows."""
    vacant = (state.sizes == 0).nonzero()[:, 0]
    if empty == "keep" or not len(vacant):
        return state.sums, state.weights
    row, leave, join = _moves(rows, state, vacant, frame, empty)
    x, weights = rows.fetch(row)
    ones = torch.ones(len(row), dtype=torch.float64, device=x.device)
    sums, heaviness = state.sums.clone(), state.weights.clone()
    for total, part in (
        (sums, integers(framed(x, frame.origin[0], spherical), weights, frame.sum_scale)),
        (heaviness, integers(ones, weights, frame.weight_scale)),
    ):
        total.index_add_(0, join, part)
        total.index_add_(0, leave, -part)
    return sums, heaviness


def _moves(rows: Rows, state: Assigned, vacant: Tensor, frame: Frame, empty: Empty) -> Tensor:
    """Empty clusters in ascending order each take one row of those that may leave: rows, clusters left, joined [3, n].

    A row may leave where it has weight, is farther than rounding from its centroid, and is not alone. "farthest" takes
    the row of the largest distance; "split" that of the largest cluster (ties to the lowest id) among those that have
    such a row. Ties go to the lowest row. Where none may leave, the clusters that remain stay empty.
    """
    label, distance, row = (rows.together(part) for part in _candidates(rows, state, len(vacant), frame))
    order = torch.argsort(row)
    order = order[torch.argsort(distance[order], descending=True, stable=True)]
    candidates = list(zip(row[order].tolist(), label[order].tolist(), strict=True))
    leaving = (_farthest if empty == "farthest" else _split)(candidates, state.sizes.tolist())
    moves = [(*pair, cluster) for pair, cluster in zip(leaving, vacant.tolist(), strict=False)]
    return torch.tensor(moves, dtype=torch.int64, device=state.labels.device).reshape(-1, 3).T


def _farthest(candidates: list[tuple[int, int]], sizes: list[int]) -> Iterator[tuple[int, int]]:
    for row, label in candidates:
        if sizes[label] > 1:
            sizes[label] -= 1
            yield row, label


def _split(candidates: list[tuple[int, int]], sizes: list[int]) -> Iterator[tuple[int, int]]:
    members: dict[int, deque[int]] = defaultdict(deque)
    for row, label in candidates:
        members[label].append(row)
    largest = [(-sizes[label], label) for label in members]
    heapify(largest)
    while largest:
        size, label = heappop(largest)
        yield members[label].popleft(), label
        if size + 1 < -1 and members[label]:
            heappush(largest, (size + 1, label))


def _candidates(rows: Rows, state: Assigned, count: int, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, distances and numbers of the local rows that may leave, the ``count`` farthest of each cluster."""
    may = (state.distances > frame.rounding) & (state.sizes[state.labels] > 1)
    if rows.weights is not None:
        may &= rows.weights > 0
    row = may.nonzero()[:, 0]
    row = row[torch.argsort(state.distances[row], descending=True, stable=True)]
    row = row[torch.argsort(state.labels[row], stable=True)]
    label = state.labels[row]
    place = torch.arange(len(row), device=row.device) - torch.searchsorted(label, label)
    row = row[place < count]
    return state.labels[row], state.distances[row], row + rows.first
