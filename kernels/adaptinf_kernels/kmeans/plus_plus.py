"""Greedy k-means++ on top of distances, for implementations without a kernel for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from adaptinf_kernels.kmeans.arithmetic import Frame, integers, unit
from torch import Tensor

Distances = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]
"""``distances(x, origin, centroids, limit, spherical)`` of an implementation."""


def by_distances(
    distances: Distances,
    x: Tensor,
    cu_rows: Tensor,
    cu_clusters: Tensor,
    weights: Tensor | None,
    frame: Frame,
    draws: Tensor,
    cu_draws: Tensor,
    spherical: bool,
) -> Tensor:
    """The first row is drawn by weight. Each further one is the best of c rows, drawn with chance ``w_i d_i / sum w d``
    (d_i the distance to the nearest row so far): the one that leaves the least ``sum w d``, the first of equals. What
    is summed are integers. Where all other rows are copies of chosen ones, the first of those follow.
    """
    ids = []
    bounds = zip(pairwise(cu_rows.tolist()), cu_clusters.diff().tolist(), pairwise(cu_draws.tolist()), strict=True)
    for problem, ((first, last), k, (begin, end)) in enumerate(bounds):
        part = None if weights is None else weights[first:last]
        words = draws[begin:end].tolist()
        ids.append(_one(distances, x[first:last], part, k, words, frame.of(problem), spherical))
    return torch.cat(ids)


def _one(
    distances: Distances, x: Tensor, weights: Tensor | None, k: int, words: list[int], frame: Frame, spherical: bool
) -> Tensor:
    origin, centers = frame.origin[0], unit(x.double()) if spherical else x.double()
    candidates = (len(words) - 1) // max(k - 1, 1)
    potential = integers(torch.ones_like(centers[:, 0]), weights, frame.weight_scale)
    if not potential.any():
        potential = torch.ones_like(potential)
    chosen = pick(potential, words[:1])
    nearest = torch.full_like(centers[:, 0], math.inf)
    nearest = distances(x, origin, centers[chosen], nearest, spherical)[:, 0]
    while len(chosen) < k:
        nearest = torch.where(nearest > frame.rounding, nearest, 0.0)
        potential = integers(nearest, weights, frame.inertia_scale)
        if not potential.any():
            rest = np.setdiff1d(np.arange(len(x)), chosen.cpu().numpy())[: k - len(chosen)]
            return torch.cat([chosen, torch.from_numpy(rest).to(chosen.device)])
        taken = 1 + (len(chosen) - 1) * candidates
        trial = pick(potential, words[taken : taken + candidates])
        reduced = distances(x, origin, centers[trial], nearest, spherical)
        best = int(integers(reduced, weights, frame.inertia_scale).sum(0).argmin())
        chosen, nearest = torch.cat([chosen, trial[best : best + 1]]), reduced[:, best]
    return chosen


def pick(potential: Tensor, words: list[int]) -> Tensor:
    """The places where the sums of the integers of ``potential`` pass the shares ``word / 2^63`` of the whole."""
    cumulative = potential.cumsum(0)
    whole = int(cumulative[-1])
    targets = [word * whole >> 63 for word in words]
    return torch.searchsorted(cumulative, torch.tensor(targets, device=cumulative.device), right=True)
