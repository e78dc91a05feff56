"""A fit from its rows to its last state, in memory or in chunks."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, NamedTuple

import torch
from adaptinf_kernels.kmeans import ops, start
from adaptinf_kernels.kmeans.arithmetic import Frame, make_frame, unit
from adaptinf_kernels.kmeans.layout import Layout, check_counts, state_dtype
from adaptinf_kernels.kmeans.options import Options
from adaptinf_kernels.kmeans.rows import InMemory, Rows
from adaptinf_kernels.kmeans.scan import (
    Alone,
    Parts,
    Place,
    Ranks,
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


def fit_in_memory(
    x: Tensor, layout: Layout, init: str | Tensor, weights: Tensor | None, options: Options
) -> tuple[Fitted, Tensor | None]:
    """All problems of a matrix; also the rows that are finite, bool [N], where some are not and may be ignored."""
    impl, spherical, cu_rows = options.impl, options.spherical, layout.cu_rows
    found, finite = ops.extremes(impl, x, cu_rows), None
    if (found.bad >= 0).any():
        finite = finite_rows(x, layout, options)
        x, weights = x[finite], None if weights is None else weights[finite]
        cu_rows = torch.cat([torch.zeros(1, dtype=torch.int64), finite.cpu().cumsum(0)])[cu_rows]
        check_counts(layout, cu_rows.diff(), "finite ")
        found = ops.extremes(impl, x, cu_rows)
    counts = cu_rows.diff().to(x.device)
    place, threshold = measure(lambda: [(x, cu_rows)], [(found, counts)], Alone(), options)
    heaviest = torch.ones_like(place.reach)
    if weights is not None:
        heaviest = torch.segment_reduce(weights, "max", lengths=counts)
        check_weights(heaviest, layout)
    frame = make_frame(*place, heaviest, spherical=spherical)
    if isinstance(init, Tensor):
        centroids = given(init, x.dtype, x.device, spherical)
        frame = make_frame(*place, heaviest, spherical=spherical, away=_away(centroids, layout, place))
    else:
        drawn = []
        for problem in range(layout.problems):
            part = slice(int(cu_rows[problem]), int(cu_rows[problem + 1]))
            rows = InMemory(
                x[part],
                None if weights is None else weights[part],
                frame.of(problem),
                partial(ops.accumulate, impl, spherical=spherical, fast=options.fast),
            )
            k = int(layout.cu_clusters[problem + 1] - layout.cu_clusters[problem])
            drawn.append(draw(rows, k, init, frame.of(problem), options))
        centroids = given(torch.cat(drawn), x.dtype, x.device, spherical)
    fit = ops.fit(
        impl, x, cu_rows, layout.cu_clusters, centroids, weights, frame, threshold, options.stop == "inertia",
        options.max_iter, options.refill, spherical, options.fast,
    )  # fmt: skip
    return Fitted(fit, frame), finite


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


def measure(parts: Parts, found: Any, ranks: Ranks, options: Options) -> tuple[Place, Tensor]:
    """Where the rows lie, and the threshold that ends the iteration, float64 [B]."""
    spherical, impl = options.spherical, options.impl
    place = find_place(parts, find_range(found, ranks), ranks, spherical=spherical, impl=impl)
    if options.stop == "shift" and options.tol > 0:
        return place, options.tol * find_variance(parts, place, ranks, spherical=spherical, impl=impl)
    return place, torch.full_like(place.reach, options.tol if options.stop == "inertia" else 0.0)


def check_weights(heaviest: Tensor, layout: Layout) -> None:
    """Raises ValueError where a problem's weights are all zero."""
    if not (heaviest > 0).all():
        raise ValueError(f"sample_weight is zero for all rows{layout.name(int((heaviest <= 0).nonzero()[0]))}")


def draw(rows: Rows, k: int, init: str, frame: Frame, options: Options) -> Tensor:
    """Starting rows [K, d] of one problem."""
    if init == "random":
        return start.random(rows, k, options.seed, frame, options.spherical)
    if init == "k-means||":
        return start.parallel(rows, k, options.seed, frame, options.spherical, options.impl)
    return start.plus_plus(rows, k, options.seed, frame, options.spherical, options.impl)


def given(centroids: Tensor, dtype: torch.dtype, device: torch.device, spherical: bool) -> Tensor:
    """Centroids in the state dtype, unit rows for the cosine."""
    centroids = centroids.to(device, torch.float64)
    check_magnitude("init", centroids)
    return (unit(centroids) if spherical else centroids).to(state_dtype(dtype))


def _away(centroids: Tensor, layout: Layout, place: Place) -> Tensor:
    """How far the starting centroid nearest to the origin is from it, by its largest column, [B]."""
    counts = layout.cu_clusters.diff().to(centroids.device)
    problem = torch.repeat_interleave(torch.arange(layout.problems, device=centroids.device), counts)
    far = (centroids.double() - place.origin[problem]).abs().amax(1)
    return torch.segment_reduce(far, "min", lengths=counts)


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
