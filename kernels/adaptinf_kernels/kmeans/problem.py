"""A fit from its rows to its last state, in memory or in chunks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from adaptinf_kernels._arrays import as_tensor
from adaptinf_kernels.kmeans import ops, start
from adaptinf_kernels.kmeans.arithmetic import Frame, largest, make_frame, reach_of, unit
from adaptinf_kernels.kmeans.layout import Layout, check_counts, single, state_dtype
from adaptinf_kernels.kmeans.memory import Memory, keys_of, nothing, recall
from adaptinf_kernels.kmeans.options import Options
from adaptinf_kernels.kmeans.ranks import Alone, Ranks
from adaptinf_kernels.kmeans.rows import InMemory, Rows
from adaptinf_kernels.kmeans.scan import (
    Parts,
    Place,
    check_magnitude,
    find_place,
    find_range,
    find_variance,
)
from torch import Tensor

_log = logging.getLogger("adaptinf_kernels")


class Fitted(NamedTuple):
    """The last state of a fit, and the frame that its integers are in."""

    fit: ops.Fit
    frame: Frame
    memory: Memory | None = None


def fit_in_memory(
    x: Tensor, layout: Layout, init: str | Tensor, former: Memory | None, weights: Tensor | None, options: Options
) -> tuple[Fitted, Tensor | None]:
    """All problems of a matrix; also the rows that are finite, bool [N], where some are not and may be ignored.

    ``former`` is what a fit remembers that ended in the centroids ``init``.
    """
    if not layout.problems:
        return _no_problem(x), None
    impl, spherical, cu_rows = options.impl, options.spherical, layout.cu_rows
    found, finite = ops.extremes(impl, x, cu_rows), None
    if (found.bad >= 0).any():
        finite = finite_rows(x, layout, options)
        x, weights = x[finite], None if weights is None else weights[finite]
        cu_rows = torch.cat([torch.zeros(1, dtype=torch.int64), finite.cpu().cumsum(0)])[cu_rows]
        found = ops.extremes(impl, x, cu_rows)
    counts = cu_rows.diff().to(x.device)
    place, threshold = measure(lambda: [(x, cu_rows)], [(found, counts)], Alone(), options, layout)
    heaviest = torch.ones_like(place.reach)
    if weights is not None:
        heaviest = torch.segment_reduce(weights, "max", lengths=counts)
    if isinstance(init, Tensor):
        centroids, frame = start_given(init, x.dtype, place, heaviest, layout, options)
    else:
        frame = start_frame(place, heaviest, layout, options)
        drawn = _draw_each(x, cu_rows, layout.cu_clusters, init, weights, frame, options)
        centroids = as_centroids(drawn, x.dtype, spherical)
    inputs = (
        x, cu_rows, layout.cu_clusters, centroids, weights, frame, threshold, options.stop == "inertia",
        options.max_iter, options.refill, spherical, options.fast,
    )  # fmt: skip
    if former is None and not options.remember:
        return Fitted(ops.fit(impl, *inputs), frame), finite
    keys = keys_of(x, cu_rows, impl)
    if former is None:
        known = nothing(len(x))
    else:
        known = recall(former, keys, cu_rows, layout.cu_clusters, torch.as_tensor(init), centroids)
    fit, known, products = ops.fit_known(impl, *inputs, known)
    return Fitted(fit, frame, Memory(keys, known, layout.cu_clusters, products) if options.remember else None), finite


def _draw_each(
    x: Tensor, cu_rows: Tensor, cu_clusters: Tensor, init: str, weights: Tensor | None, frame: Frame, options: Options
) -> Tensor:
    """Starting rows [sum K, d]."""
    impl, spherical = options.impl, options.spherical
    if init == "k-means++":
        return start.plus_plus_of_each(x, cu_rows, cu_clusters, weights, options.seed, frame, spherical, impl)
    accumulate = partial(ops.accumulate, impl, spherical=spherical, fast=options.fast)
    drawn = []
    for problem, ((first, last), k) in enumerate(
        zip(pairwise(cu_rows.tolist()), cu_clusters.diff().tolist(), strict=True)
    ):
        part = None if weights is None else weights[first:last]
        rows = InMemory(x[first:last], part, frame.of(problem), accumulate)
        drawn.append(draw(rows, k, init, frame.of(problem), options))
    return torch.cat(drawn)


def _no_problem(x: Tensor) -> Fitted:
    """The fit of a batch of nothing."""
    real = torch.zeros(0, dtype=torch.float64, device=x.device)
    whole, matrix = real.long(), x[:0].double()
    centroids = x[:0].to(state_dtype(x.dtype))
    fit = ops.Fit(whole, centroids, whole, whole, real, inertia=whole, n_iter=whole, changed=whole)
    return Fitted(fit, Frame(matrix, real, real, real, rounding=real))


def finite_rows(x: Tensor, layout: Layout, options: Options) -> Tensor:
    """Bool [N]. Raises ValueError with the first row that is not finite, unless such rows are ignored."""
    finite = torch.isfinite(x).all(1)
    if options.non_finite == "error":
        bad = (~finite).nonzero()[:, 0]
        raise ValueError(
            f"x has NaN or infinity in {len(bad)} of {len(x)} rows, the first is row {int(bad[0])}; "
            "non_finite='ignore' leaves them out"
        )
    return finite


def measure(
    parts: Parts, found: Iterable[tuple[ops.Extremes, Tensor]], ranks: Ranks, options: Options, layout: Layout
) -> tuple[Place, Tensor]:
    """Where the rows lie, and the threshold that ends the iteration, float64 [B]."""
    spherical, impl = options.spherical, options.impl
    extent = find_range(found, ranks)
    check_counts(layout, extent.rows, "finite " if options.non_finite == "ignore" else "")
    place = find_place(parts, extent, ranks, spherical=spherical, impl=impl)
    if options.stop == "shift" and options.tol > 0:
        return place, options.tol * find_variance(parts, place, ranks, spherical=spherical, impl=impl)
    return place, torch.full_like(place.reach, options.tol if options.stop == "inertia" else 0.0)


def start_frame(place: Place, heaviest: Tensor, layout: Layout, options: Options, away: Tensor | None = None) -> Frame:
    """The frame of a fit. Raises ValueError where a problem's weights are all zero."""
    if not (heaviest > 0).all():
        raise ValueError(f"sample_weight is zero for all rows{layout.name(int((heaviest <= 0).nonzero()[0]))}")
    return make_frame(*place, heaviest, spherical=options.spherical, away=away)


def start_given(
    init: Tensor, dtype: torch.dtype, place: Place, heaviest: Tensor, layout: Layout, options: Options
) -> tuple[Tensor, Frame]:
    """Starting centroids given [sum K, d], and a frame that they are in."""
    centroids = as_centroids(init.to(place.origin.device, torch.float64), dtype, options.spherical)
    away = _away(centroids, place.origin, layout.cu_clusters.diff())
    return centroids, start_frame(place, heaviest, layout, options, away)


def step_frame(
    x: Tensor, centroids: Tensor, origin: Tensor, weights: Tensor | None, spherical: bool, impl: str
) -> Frame:
    """The frame of finite rows [N, d] that meet the centroids of another fit; ``origin`` [1, d]."""
    counts = torch.tensor([len(x)], device=x.device)
    if not len(x):
        raise ValueError("x has no rows")
    found = ops.extremes(impl, x, torch.tensor([0, len(x)]))
    check_magnitude("x", torch.stack([found.low, found.high]))
    reach = torch.ones_like(origin[:, 0]) if spherical else reach_of(found.low, found.high, origin)
    layout = single(len(x), len(centroids))
    heaviest = torch.ones_like(reach) if weights is None else weights.amax(0, keepdim=True)
    if not heaviest > 0:
        raise ValueError("sample_weight is zero for all rows")
    away = _away(centroids, origin, layout.cu_clusters.diff())
    return make_frame(origin, reach, counts, heaviest, spherical=spherical, away=away)


def _away(centroids: Tensor, origin: Tensor, counts: Tensor) -> Tensor:
    """How far the centroid nearest to the origin is from it, by its largest column, [B]."""
    counts = counts.to(centroids.device)
    far = centroids.double() - origin.repeat_interleave(counts, 0)
    return torch.segment_reduce(far.abs().amax(1), "min", lengths=counts)


def check_weights(sample_weight: Any, rows: int, device: torch.device) -> Tensor:
    """float64 [N]."""
    weights = as_tensor("sample_weight", sample_weight).to(device, torch.float64).flatten()
    if len(weights) != rows:
        raise ValueError(f"sample_weight has {len(weights)} numbers for {rows} rows")
    bad = (~(torch.isfinite(weights) & (weights >= 0))).nonzero()[:, 0]
    if len(bad):
        row = int(bad[0])
        raise ValueError(f"sample_weight must be finite and not negative, but is {float(weights[row])} in row {row}")
    check_magnitude("sample_weight", weights)
    return weights


def draw(rows: Rows, k: int, init: str, frame: Frame, options: Options) -> Tensor:
    """Starting rows [K, d] of one problem."""
    if init == "random":
        return start.random(rows, k, options.seed, frame, options.spherical)
    if init == "k-means||":
        return start.parallel(rows, k, options.seed, frame, options.spherical, options.impl)
    return start.plus_plus(rows, k, options.seed, frame, options.spherical, options.impl)


def as_centroids(rows: Tensor, dtype: torch.dtype, spherical: bool) -> Tensor:
    """Rows in the state dtype, made unit rows for the cosine."""
    if not spherical:
        check_magnitude("init", rows)
    centroids = (unit(rows.double()) if spherical else rows).to(state_dtype(dtype))
    if not math.isfinite(largest(centroids)):
        raise ValueError(f"init is not within the range of {centroids.dtype}, the dtype of centroids of {dtype} rows")
    return centroids


def settle(fit: ops.Fit, layout: Layout, options: Options) -> None:
    """The empty clusters of a result: an error where the policy says so, otherwise a warning."""
    vacant = (fit.sizes == 0).nonzero()[:, 0].cpu()
    if not len(vacant):
        return
    total = len(fit.sizes)
    if options.empty == "error":
        problem = int(torch.searchsorted(layout.cu_clusters, vacant[0], right=True)) - 1
        cluster = int(vacant[0] - layout.cu_clusters[problem])
        raise ValueError(
            f"cluster {cluster}{layout.name(problem)} is empty; ask for fewer clusters, or take empty='farthest', "
            "'split' or 'keep'"
        )
    why = "" if options.empty == "keep" else "; the data has too few distinct rows"
    _log.warning("kmeans: only %d of %d clusters are used%s", total - len(vacant), total, why)
