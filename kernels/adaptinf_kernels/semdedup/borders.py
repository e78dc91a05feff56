"""Pairs of near-duplicates across the borders of clusters: which rows must be looked at in which other clusters.

Let ``|x - y|^2 <= 2 - 2 s <= 2 eps`` for unit (or zero) rows x of cluster a and y of cluster b, and
``u = (c_a - c_b) / |c_a - c_b|`` for any two points c_a and c_b. Then ``<u, x> - <u, y> <= |x - y| <= sqrt(2 eps)``,
so x need be looked at in b only where ``<u, x> <= sqrt(2 eps) + max_{y in b} <u, y>``. For the means of k-means
clusters that maximum lies about the bisector, and few rows lie so near to it; but the criterion holds whatever the
clusters are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BLOCK = 1 << 24
"""Products of rows and means that are held at once."""


def with_guests(x: Tensor, clusters: Tensor, count: int, eps: float) -> tuple[Tensor, Tensor]:
    """``(rows, clusters)`` of the guests: row ``rows[g]`` may be within ``eps`` of a row of cluster ``clusters[g]``.

    x: [N, d] finite; clusters: int64 [N], 0 to count - 1. Costs 2 N count d operations twice and O(count^2) memory.
    """
    means = torch.zeros(count, x.shape[1], device=x.device)
    step = max(1, _BLOCK // max(count, x.shape[1]))
    for start in range(0, len(x), step):
        means.index_add_(0, clusters[start : start + step], _unit(x[start : start + step]))
    means /= clusters.bincount(minlength=count).clamp_min(1)[:, None]
    apart = torch.cdist(means.double(), means.double()).float()
    # What rounding can do to a difference of two products of rows of length 1 with means of length at most 1.
    slack = 8 * (x.shape[1] + 8) * 2.0**-24
    reach = torch.full((count, count), -math.inf, device=x.device)  # [b, a]: max over b of <y, c_a> - <y, c_b>
    for start in range(0, len(x), step):
        own = clusters[start : start + step]
        reach.scatter_reduce_(0, own[:, None].expand(-1, count), -_lead(x, start, step, means, own), "amax")
    # Rows rounded to float32 are of length 1 up to 2^-23, so |x - y|^2 may be 2^-21 more than 2 - 2 s.
    allowed = math.sqrt(2 * eps + 2.0**-20) * apart * (1 + 2.0**-20) + reach.T + slack  # [a, b]
    allowed.fill_diagonal_(-math.inf)
    rows, guests = [], []
    for start in range(0, len(x), step):
        own = clusters[start : start + step]
        row, to = (_lead(x, start, step, means, own) <= allowed[own]).nonzero(as_tuple=True)
        rows.append(row + start)
        guests.append(to)
    empty = clusters.new_empty(0)
    return torch.cat([empty, *rows]), torch.cat([empty, *guests])


def joined(root: Tensor, parent: Tensor, child: Tensor) -> Tensor:
    """The first row of each row's component; ``root`` is 0, 1, ..., edges run from ``parent[e]`` to ``child[e]``."""
    while True:
        low = torch.minimum(root[parent], root[child])
        lower = root.scatter_reduce(0, root[parent], low, "amin").scatter_reduce(0, root[child], low, "amin")
        lower = lower[lower]
        if torch.equal(lower, root):
            return root
        root = lower


def _lead(x: Tensor, start: int, step: int, means: Tensor, own: Tensor) -> Tensor:
    """[rows, count]: how much more along its own cluster's mean a row is than along each other."""
    along = _unit(x[start : start + step]) @ means.T
    return along.gather(1, own[:, None]) - along


def _unit(rows: Tensor) -> Tensor:
    wide = rows.double()
    largest = wide.abs().amax(1, keepdim=True)
    wide = wide / torch.where(largest == 0, 1, largest)
    return (wide / wide.norm(dim=1, keepdim=True).clamp_min(1)).float()
