"""What a fit knows of its rows before it starts: finite or not, where they lie, how far they reach.

Each number is put together from parts of the rows (chunks, ranks) by a minimum, a maximum or an integer sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from adaptinf_kernels.kmeans import ops
from adaptinf_kernels.kmeans.arithmetic import LARGEST, largest, make_frame, origin_of, reach_of, scale
from adaptinf_kernels.kmeans.ranks import Ranks
from torch import Tensor

Parts = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives the rows anew at each call, as parts ``(x, cu_rows)`` with equally many problems."""


class Range(NamedTuple):
    """Least and largest value of each column, float64 [B, d]; the number of rows, int64 [B]."""

    low: Tensor
    high: Tensor
    rows: Tensor


class Place(NamedTuple):
    """The origin [B, d], a bound ``reach`` [B] on |x - origin| (1 for unit rows), float64; rows int64 [B]."""

    origin: Tensor
    reach: Tensor
    rows: Tensor


def find_range(found: Iterable[tuple[ops.Extremes, Tensor]], ranks: Ranks) -> Range:
    """Put together extremes of finite parts, each with its numbers of rows."""
    lows, highs, rows = zip(*((part.low, part.high, count) for part, count in found), strict=True)
    low = ranks.together(torch.stack(lows).amin(0)[None]).amin(0)
    high = ranks.together(torch.stack(highs).amax(0)[None]).amax(0)
    return Range(low, high, ranks.total(torch.stack(rows).sum(0)))


def find_place(parts: Parts, found: Range, ranks: Ranks, *, spherical: bool, impl: str) -> Place:
    """The mean of the rows as the origin; zeros for the cosine."""
    if spherical:
        return Place(torch.zeros_like(found.low), torch.ones_like(found.low[:, 0]), found.rows)
    farthest = torch.maximum(found.low.abs(), found.high.abs()).amax(1)
    check_magnitude("x", farthest)
    power = scale(found.rows, farthest)
    sums = torch.stack([ops.column_sums(impl, x, cu_rows, power) for x, cu_rows in parts()]).sum(0)
    origin = origin_of(ranks.total(sums), power, found.rows)
    return Place(origin, reach_of(found.low, found.high, origin), found.rows)


def check_magnitude(what: str, values: Tensor) -> None:
    """Raises ValueError where squares would leave the range of float64."""
    most = largest(values)
    if most > LARGEST:
        raise ValueError(f"{what} holds {most:g}, its values must be within 2^300 = {LARGEST:.0e}: scale them")


def find_variance(parts: Parts, place: Place, ranks: Ranks, *, spherical: bool, impl: str) -> Tensor:
    """Mean of y_it^2 over the rows and columns of each problem, float64 [B]."""
    ones = torch.ones_like(place.reach)
    power = make_frame(place.origin, place.reach, place.rows, ones, spherical=spherical).inertia_scale
    sums = torch.stack(
        [ops.square_sums(impl, x, cu_rows, place.origin, power, spherical) for x, cu_rows in parts()]
    ).sum(0)
    columns = place.origin.shape[1]
    return ranks.total(sums).double() / power / (place.rows * columns).double()
