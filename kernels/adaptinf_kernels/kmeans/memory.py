"""What a fit remembers of its rows, so that the next one, from where it ended, need not look at the same ones again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from adaptinf_kernels.kmeans import ops
from adaptinf_kernels.kmeans.layout import DTYPES
from torch import Tensor

_STEP = 0x5851F42D4C957F2D
"""Odd: what keeps rows of several problems and dtypes apart."""


class Memory(NamedTuple):
    """Of the rows of a fit that was told to remember them, 32 bytes each; bounds hold for its last centroids.

    Attributes:
        keys: int64 [N], hashes of the rows, by which they are recognised wherever they lie in their problem.
        known: their labels, and bounds on their distances to centroids.
        cu_clusters: int64 [B + 1], which clusters were those of each problem.
        products: int64 [B], how many products of a row with a centroid, or distances between the two, the fit
            computed at any precision: 2 d operations each are its cost, but for sums and passes over the rows.
    """

    keys: Tensor
    known: ops.Known
    cu_clusters: Tensor
    products: Tensor


def keys_of(x: Tensor, cu_rows: Tensor, impl: str) -> Tensor:
    """int64 [N]."""
    problems = torch.arange(len(cu_rows) - 1).repeat_interleave(cu_rows.diff())
    return ops.hashes(impl, x) + _STEP * (problems + len(cu_rows) * DTYPES.index(x.dtype))


def nothing(rows: int) -> ops.Known:
    """Of rows that nothing is known of."""
    zeros = torch.zeros(rows, dtype=torch.float64)
    return ops.Known(torch.full((rows,), -1), zeros + torch.inf, zeros)


def recall(memory: Memory, keys: Tensor, cu_rows: Tensor, cu_clusters: Tensor, old: Tensor, new: Tensor) -> ops.Known:
    """What is known of the rows of ``keys`` and the centroids ``new`` [sum K, d], from a fit that ended in ``old``."""
    places = _places(keys, memory.keys)
    labels, upper, lower = (part[places] for part in memory.known)
    problems = torch.arange(len(cu_rows) - 1).repeat_interleave(cu_rows.diff())
    moved = (new.double() - old.double()).square().sum(1).sqrt() * (1 + 2.0**-30)
    farthest = torch.segment_reduce(moved, "max", lengths=cu_clusters.diff())
    upper, lower = upper + moved[labels + cu_clusters[problems]], lower - farthest[problems]
    return ops.Known(torch.where(places < 0, -1, labels), upper, lower)


def _places(keys: Tensor, known: Tensor) -> Tensor:
    """Where each key is in ``known``, -1 where it is not found: looked for where it was, then everywhere else."""
    common = min(len(keys), len(known))
    places = torch.full_like(keys, -1)
    same = keys[:common] == known[:common]
    places[:common] = torch.where(same, torch.arange(common), -1)
    open_ = (places < 0).nonzero()[:, 0]
    others = torch.cat([(~same).nonzero()[:, 0], torch.arange(common, len(known))])
    if len(open_) and len(others):
        ordered, order = known[others].sort()
        at = torch.searchsorted(ordered, keys[open_]).clamp_max(len(others) - 1)
        places[open_] = torch.where(ordered[at] == keys[open_], others[order[at]], -1)
    return places
