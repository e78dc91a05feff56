"""Where Lloyd's iteration starts: rows drawn by a seed, with the bits of the rows' order-free integers."""

from __future__ import annotations

import math

import numpy as np
import torch
from adaptinf_kernels.kmeans import ops
from adaptinf_kernels.kmeans.arithmetic import Frame, framed, integers, unit
from adaptinf_kernels.kmeans.layout import state_dtype
from adaptinf_kernels.kmeans.rows import Rows
from adaptinf_kernels.philox.api import philox
from torch import Tensor

SAMPLE = 256
"""k-means++ sees at most so many rows for each cluster."""

ROUNDS, OVERSAMPLING = 5, 2
"""k-means||: rounds, and rows drawn in each, in multiples of K."""


def random(rows: Rows, k: int, seed: int, frame: Frame, spherical: bool) -> Tensor:
    """K rows [K, d] drawn without replacement; rows equal to one drawn before are passed over if others are left."""
    generator = np.random.default_rng(seed)
    drawn = generator.choice(rows.count, size=k, replace=False)
    x, keep = _first_of_each(rows, drawn, frame, spherical)
    if len(keep) < k:
        rest = generator.permutation(np.delete(np.arange(rows.count), drawn))
        passed_over = np.delete(drawn, keep)
        drawn, step = drawn[keep], k
        while len(drawn) < k and len(rest):
            trial = np.concatenate([drawn, rest[:step]])
            x, keep = _first_of_each(rows, trial, frame, spherical)
            passed_over = np.concatenate([passed_over, np.delete(trial, keep)])
            drawn, rest, step = trial[keep][:k], rest[step:], 2 * step
        drawn = np.concatenate([drawn, passed_over[: k - len(drawn)]])
        x = rows.fetch(torch.from_numpy(drawn))[0]
    return x


def _first_of_each(rows: Rows, numbers: np.ndarray, frame: Frame, spherical: bool) -> tuple[Tensor, np.ndarray]:
    """The rows of x, and the places of the first of each set of equals, ascending."""
    x = rows.fetch(torch.from_numpy(numbers))[0]
    y = framed(x, frame.origin[0], spherical) + 0.0  # -0 is 0
    return x, np.sort(np.unique(y.cpu().numpy(), axis=0, return_index=True)[1])


def plus_plus(rows: Rows, k: int, seed: int, frame: Frame, spherical: bool, impl: str) -> Tensor:
    """Greedy k-means++: rows [K, d] of x, on a sample drawn by the seed where there are more than ``SAMPLE`` K rows."""
    generator = np.random.default_rng(seed)
    numbers = np.arange(rows.count)
    if rows.count > SAMPLE * k:
        numbers = np.sort(generator.choice(rows.count, size=SAMPLE * k, replace=False))
    x, weights = rows.fetch(torch.from_numpy(numbers))
    return x[_draw(x, weights, k, generator, frame, spherical, impl)]


def parallel(rows: Rows, k: int, seed: int, frame: Frame, spherical: bool, impl: str) -> Tensor:
    """k-means||: in each of ``ROUNDS`` rounds row i is drawn with chance ``OVERSAMPLING K w_i d_i / sum w d``, d_i its
    distance to the nearest row drawn before; then k-means++ among the rows drawn, weighted by the rows nearest to each.
    """
    generator = np.random.default_rng(seed)
    drawn = torch.from_numpy(generator.integers(rows.count, size=1))
    nearest = None
    fresh = drawn
    for turn in range(ROUNDS):
        found = rows.accumulate(_as_centroids(rows.fetch(fresh)[0], spherical))
        nearest = found.distances if nearest is None else torch.minimum(nearest, found.distances)
        potential = integers(torch.where(nearest > frame.rounding, nearest, 0.0), rows.weights, frame.inertia_scale)
        whole = int(rows.total(potential.sum()))
        if whole == 0:
            break
        words = philox(seed, rows.first, len(potential), word2=turn, device=potential.device)
        uniform = ((words[:, 0] << 21) + (words[:, 1] >> 11)).double() * 2.0**-53
        chosen = uniform * float(whole) < float(OVERSAMPLING * k) * potential.double()
        fresh = rows.together(chosen.nonzero()[:, 0] + rows.first).cpu()
        drawn = torch.cat([drawn, fresh])
        if not len(fresh):
            break
    x = rows.fetch(drawn)[0]
    if len(x) <= k:
        rest = np.setdiff1d(np.arange(rows.count), drawn.numpy())[: k - len(x)]
        return torch.cat([x, rows.fetch(torch.from_numpy(rest))[0]])
    weights = rows.accumulate(_as_centroids(x, spherical)).weights.double() / frame.weight_scale
    return x[_draw(x, weights, k, generator, frame, spherical, impl)]


def _as_centroids(x: Tensor, spherical: bool) -> Tensor:
    return (unit(x.double()) if spherical else x).to(state_dtype(x.dtype))


def _draw(
    x: Tensor,
    weights: Tensor | None,
    k: int,
    generator: np.random.Generator,
    frame: Frame,
    spherical: bool,
    impl: str,
) -> Tensor:
    """Places of k rows. Each next one is the best of ``2 + floor(log k)`` drawn with chance ``w_i d_i / sum w d``."""
    origin, centers = frame.origin[0], unit(x.double()) if spherical else x.double()
    candidates = 2 + int(math.log(k))
    potential = integers(torch.ones_like(centers[:, 0]), weights, frame.weight_scale)
    if not potential.any():
        potential = torch.ones_like(potential)
    chosen = _pick(potential, generator, 1)
    nearest = torch.full_like(centers[:, 0], math.inf)
    nearest = ops.distances(impl, x, origin, centers[chosen], nearest, spherical)[:, 0]
    while len(chosen) < k:
        nearest = torch.where(nearest > frame.rounding, nearest, 0.0)
        potential = integers(nearest, weights, frame.inertia_scale)
        if not potential.any():  # all other rows are copies of chosen ones
            rest = np.setdiff1d(np.arange(len(x)), chosen.cpu().numpy())[: k - len(chosen)]
            return torch.cat([chosen, torch.from_numpy(rest).to(chosen.device)])
        trial = _pick(potential, generator, candidates)
        reduced = ops.distances(impl, x, origin, centers[trial], nearest, spherical)
        best = int(integers(reduced, weights, frame.inertia_scale).sum(0).argmin())
        chosen, nearest = torch.cat([chosen, trial[best : best + 1]]), reduced[:, best]
    return chosen


def _pick(potential: Tensor, generator: np.random.Generator, count: int) -> Tensor:
    """Places drawn with chances in proportion to the integers of ``potential``."""
    cumulative = potential.cumsum(0)
    whole = int(cumulative[-1])
    targets = [int(u) * whole >> 63 for u in generator.integers(2**63, size=count, dtype=np.uint64)]
    return torch.searchsorted(cumulative, torch.tensor(targets, device=cumulative.device), right=True)
