"""The numbers that every implementation of k-means computes alike, bit for bit; README.md says why in this way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LARGEST = 2.0**300
"""Bound on float64 values and on weights: beyond it, squares times weights would leave the range of float64."""


class Frame(NamedTuple):
    """What turns the rows of each problem into integers; float64 on the rows' device.

    Attributes:
        origin: [B, d], what is subtracted from the rows: their mean, zeros for the cosine.
        sum_scale: [B], powers of two: ``rint(w_i y_it sum_scale)`` is what is summed per cluster,
        weight_scale: [B], ``rint(w_i weight_scale)`` likewise,
        inertia_scale: [B], ``rint(w_i dist_i inertia_scale)`` likewise.
        rounding: [B], the distance that a row may have to the mean of N copies of itself.
    """

    origin: Tensor
    sum_scale: Tensor
    weight_scale: Tensor
    inertia_scale: Tensor
    rounding: Tensor

    def of(self, problem: int) -> Frame:
        """The frame of one problem, still with a first dimension of 1."""
        return Frame(*(part[problem : problem + 1] for part in self))


def largest(values: Tensor) -> float:
    """The largest magnitude, 0 of nothing; not finite where a value is not. In one pass, without copies."""
    if not values.numel():
        return 0.0
    low, high = values.aminmax()
    return max(abs(float(low)), abs(float(high)))  # both are NaN where a value is


def make_frame(
    origin: Tensor, reach: Tensor, rows: Tensor, heaviest: Tensor, *, spherical: bool, away: Tensor | None = None
) -> Frame:
    """The frame of problems of ``rows`` [B] rows.

    ``reach`` [B] bounds |y_it| and ``heaviest`` [B] the weights; ``away`` [B] bounds |c_jt| of one starting centroid of
    the problem, where it may lie farther than the rows.
    """
    columns = origin.shape[1]
    if spherical:
        farthest, rounding = torch.full_like(reach, 2.0), torch.full_like(reach, 4 * 2.0**-52 * columns)
    else:
        span = reach + (reach if away is None else torch.maximum(reach, away))
        copies = rows.double() * 2.0**-52 * reach
        farthest, rounding = columns * (span * span), columns * (copies * copies)
    return Frame(
        origin=origin,
        sum_scale=scale(rows, heaviest * reach),
        weight_scale=scale(rows, heaviest),
        inertia_scale=scale(rows, heaviest * farthest),
        rounding=rounding,
    )


def scale(rows: Tensor, largest: Tensor) -> Tensor:
    """The power of two by which ``rows`` [B] numbers of at most ``largest`` [B] sum up to less than 2^62.

    ``2^(62 - n - e)``, 2^(n-1) <= rows < 2^n and 2^(e-1) <= largest < 2^e, the exponent held within +-1000.
    """
    bits = torch.frexp(rows.double()).exponent.long()
    exponent = 62 - bits - torch.frexp(largest).exponent.long()
    return power_of_two(exponent.clamp(-1000, 1000))


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float64, exactly, for int64 exponents from -1022 to 1023."""
    return ((exponent + 1023) << 52).view(torch.float64)


def origin_of(sums: Tensor, sum_scale: Tensor, rows: Tensor) -> Tensor:
    """Means [B, d] from the int64 sums of ``rint(x_it sum_scale)``."""
    return sums.double() / sum_scale[:, None] / rows.double()[:, None]


def reach_of(low: Tensor, high: Tensor, origin: Tensor) -> Tensor:
    """Max |x_it - origin_t| per problem from the least and largest x_it of each column (rounding is monotone)."""
    return torch.maximum(high - origin, origin - low).amax(1)


def lane8(terms: Tensor) -> Tensor:
    """Sums over the last dimension in the one order in which columns are added.

    Eight accumulators start from zero; term t is added to accumulator t mod 8, in ascending order of t; the sum is
    ``((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7))``.
    """
    columns = terms.shape[-1]
    lanes = terms.new_zeros(*terms.shape[:-1], 8)
    for t in range(0, columns - 7, 8):
        lanes += terms[..., t : t + 8]
    rest = columns % 8
    lanes[..., :rest] += terms[..., columns - rest :]
    fours = lanes[..., :4] + lanes[..., 4:]
    twos = fours[..., :2] + fours[..., 2:]
    return twos[..., 0] + twos[..., 1]


def unit(rows: Tensor) -> Tensor:
    """Rows of float64 divided by their Euclidean length; a row of zeros stays zero.

    The row is first divided by ``2^e``, ``2^(e-1) <= max_t |row_t| < 2^e``, so that no square leaves the range.
    """
    exponent = torch.frexp(rows.abs().amax(-1, keepdim=True)).exponent.long()
    half = exponent // 2  # 2^1024 is no float64, but its root is
    rows = rows * power_of_two(-half) * power_of_two(half - exponent)
    length = square_root(lane8(rows * rows))[..., None]
    return rows / torch.where(length == 0, 1.0, length)


def square_root(values: Tensor) -> Tensor:
    """Correctly rounded, which ``torch.sqrt`` is not on CPUs: MKL's root is one bit off at times."""
    return torch.as_tensor(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()


def framed(x: Tensor, origin: Tensor, spherical: bool) -> Tensor:
    """Y [n, d] in float64: unit rows, or rows less the origin [d]."""
    return unit(x.double()) if spherical else x.double() - origin


def half_squares(centroids: Tensor, spherical: bool) -> Tensor:
    """What is added to ``- y . c`` in a score: |c|^2 / 2 [K], or zeros, for centroids less the origin."""
    return torch.zeros_like(centroids[:, 0]) if spherical else 0.5 * lane8(centroids * centroids)


def distances_between(y: Tensor, c: Tensor, spherical: bool) -> Tensor:
    """|y - c|^2 or 1 - y . c over the last dimension, for y and c of one shape."""
    if spherical:
        return 1.0 - lane8(y * c)
    away = y - c
    return lane8(away * away)


def integers(values: Tensor, weights: Tensor | None, power: Tensor) -> Tensor:
    """``rint(w_i value_i power)`` as int64; weights [n] belong to the first dimension."""
    if weights is not None:
        values = values * weights.reshape(-1, *[1] * (values.dim() - 1))
    return (values * power).round().long()


def means(sums: Tensor, weights: Tensor, frame: Frame, old: Tensor, spherical: bool) -> Tensor:
    """New centroids [K, d] of one problem from its integer sums [K, d] and weights [K].

    A cluster without weight keeps its old centroid, and so does one of unit rows that cancel.
    """
    keep = weights == 0
    heavy = torch.where(keep, 1, weights).double() / frame.weight_scale
    found = (sums.double() / frame.sum_scale) / heavy[:, None]
    if spherical:
        found, keep = unit(found), keep | (sums == 0).all(1)
    else:
        found = found + frame.origin
    return torch.where(keep[:, None], old, found.to(old.dtype))


def largest_of_each(labels: Tensor, distances: Tensor, k: int) -> Tensor:
    """The largest distance of each cluster, float64 [K]; 0 without rows."""
    largest = torch.zeros(k, dtype=torch.float64, device=labels.device)
    return largest.scatter_reduce_(0, labels, distances, "amax")


def shift(new: Tensor, old: Tensor) -> float:
    """``sum_j |new_j - old_j|^2``, clusters added in ascending order."""
    away = new.double() - old.double()
    return float(lane8(away * away).cpu().numpy().cumsum()[-1])
