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
    sample = _sample(rows.count, k, generator)
    x, weights = rows.fetch(torch.arange(rows.count) if sample is None else sample)
    return x[_chosen(x, weights, k, _words(k, generator), frame, spherical, impl)]


def plus_plus_of_each(
    x: Tensor, cu_rows: Tensor, cu_clusters: Tensor, weights: Tensor | None, seed: int, frame: Frame, spherical: bool,
    impl: str,
) -> Tensor:  # fmt: skip
    """The same for each problem of a batch in memory, with the same rows for each as alone: [sum K, d]."""
    plans: dict[tuple[int, int], tuple[Tensor | None, Tensor]] = {}  # of problems of one kind
    samples, draws = [], []
    for n, k in zip(cu_rows.diff().tolist(), cu_clusters.diff().tolist(), strict=True):
        kind = (n if n > SAMPLE * k else 0, k)
        if kind not in plans:
            generator = np.random.default_rng(seed)
            plans[kind] = _sample(n, k, generator), _words(k, generator)
        sample, words = plans[kind]
        samples.append(sample)
        draws.append(words)
    if any(sample is not None for sample in samples):
        firsts, counts = cu_rows[:-1].tolist(), cu_rows.diff().tolist()
        parts = [
            first + (torch.arange(n) if sample is None else sample)
            for first, n, sample in zip(firsts, counts, samples, strict=True)
        ]
        numbers = torch.cat(parts).to(x.device)
        x, weights = x[numbers], None if weights is None else weights[numbers]
        cu_rows = _bounds([len(part) for part in parts])
    ids = ops.plus_plus(
        impl, x, cu_rows, cu_clusters, weights, frame, torch.cat(draws), _bounds([len(words) for words in draws]),
        spherical,
    )  # fmt: skip
    return x[ids + cu_rows[:-1].repeat_interleave(cu_clusters.diff()).to(ids.device)]


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
    return x[_chosen(x, weights, k, _words(k, generator), frame, spherical, impl)]


def _as_centroids(x: Tensor, spherical: bool) -> Tensor:
    return (unit(x.double()) if spherical else x).to(state_dtype(x.dtype))


def _sample(n: int, k: int, generator: np.random.Generator) -> Tensor | None:
    """Rows of n that are looked at, ascending; None where all are."""
    if n <= SAMPLE * k:
        return None
    return torch.from_numpy(np.sort(generator.choice(n, size=SAMPLE * k, replace=False)))


def _words(k: int, generator: np.random.Generator) -> Tensor:
    """Draws of k-means++, 63 bits each: one, and ``2 + floor(log k)`` for the candidates of each further cluster."""
    draws = 1 + (k - 1) * (2 + int(math.log(k)))
    return torch.from_numpy(generator.integers(2**63, size=draws, dtype=np.uint64).astype(np.int64))


def _chosen(
    x: Tensor, weights: Tensor | None, k: int, words: Tensor, frame: Frame, spherical: bool, impl: str
) -> Tensor:
    """k-means++ of one problem."""
    rows, clusters, draws = (_bounds([count]) for count in (len(x), k, len(words)))
    return ops.plus_plus(impl, x, rows, clusters, weights, frame, words, draws, spherical)


def _bounds(counts: list[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0)
