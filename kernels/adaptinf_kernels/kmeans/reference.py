"""The primitives of ``ops.py`` in plain PyTorch, a bounded block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from adaptinf_kernels.kmeans.arithmetic import (
    Frame,
    distances_between,
    framed,
    half_squares,
    integers,
    lane8,
)
from adaptinf_kernels.kmeans.lloyd import lloyd
from adaptinf_kernels.kmeans.ops import Assigned, Empty, Extremes, Fit, Known
from adaptinf_kernels.kmeans.plus_plus import by_distances
from adaptinf_kernels.kmeans.rows import InMemory
from torch import Tensor

_BLOCK_BYTES = 16 << 20
"""Bytes of a block of rows in float64, and of its scores."""

_TURN, _SPREAD = 0x9E3779B97F4A7C15 - 2**64, 0xD1B54A32D192ED03 - 2**64
"""Odd numbers modulo 2^64, of the hash."""


def not_supported_reasons(primitive: str, *inputs: Any) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(primitive: str, *inputs: Any) -> Any:
    return _PRIMITIVES[primitive](*inputs)


def extremes(x: Tensor, cu_rows: Tensor) -> Extremes:
    problems, columns = len(cu_rows) - 1, x.shape[1]
    low = torch.full((problems, columns), float("inf"), dtype=torch.float64, device=x.device)
    high, bad = -low, torch.full((problems,), -1, dtype=torch.int64, device=x.device)
    for problem, start, block in _blocks(x, cu_rows, columns):
        finite = torch.isfinite(block).all(1)
        if bad[problem] < 0 and not finite.all():
            bad[problem] = start + int((~finite).nonzero()[0])
        low[problem] = torch.minimum(low[problem], block.amin(0).double())
        high[problem] = torch.maximum(high[problem], block.amax(0).double())
    return Extremes(low, high, bad)


def column_sums(x: Tensor, cu_rows: Tensor, scale: Tensor) -> Tensor:
    sums = torch.zeros(len(cu_rows) - 1, x.shape[1], dtype=torch.int64, device=x.device)
    for problem, _, block in _blocks(x, cu_rows, x.shape[1]):
        sums[problem] += integers(block.double(), None, scale[problem]).sum(0)
    return sums


def hashes(x: Tensor) -> Tensor:
    raw = x.contiguous().view(torch.uint8)
    lines = torch.nn.functional.pad(raw, (0, -raw.shape[1] % 64)).view(torch.int64).reshape(len(x), -1, 8)
    states = (torch.arange(1, 9, device=x.device) * _SPREAD).expand(len(x), 8)
    for line in lines.unbind(1):
        states = _rotated(states + line * _SPREAD, 31) * _TURN
    found = torch.zeros_like(states[:, 0])
    for state in states.unbind(1):
        found = (_rotated(found, 27) ^ (state ^ _shifted(state, 32))) * _TURN
    return found ^ _shifted(found, 32)


def square_sums(x: Tensor, cu_rows: Tensor, origin: Tensor, scale: Tensor, spherical: bool) -> Tensor:
    sums = torch.zeros(len(cu_rows) - 1, dtype=torch.int64, device=x.device)
    for problem, _, block in _blocks(x, cu_rows, x.shape[1]):
        y = framed(block, origin[problem], spherical)
        sums[problem] += integers(lane8(y * y), None, scale[problem]).sum()
    return sums


def distances(x: Tensor, origin: Tensor, centroids: Tensor, limit: Tensor | None, spherical: bool) -> Tensor:
    found = torch.empty(len(x), len(centroids), dtype=torch.float64, device=x.device)
    c = centroids - origin
    for _, start, block in _blocks(x, _whole(x), max(x.shape[1], len(c))):
        y, part = framed(block, origin, spherical), slice(start, start + len(block))
        if limit is None:
            for j in range(len(c)):
                found[part, j] = distances_between(y, c[j].expand_as(y), spherical)
        else:
            found[part] = _closer(y, c, limit[part], spherical)
    return found


def assign(
    x: Tensor,
    cu_rows: Tensor,
    cu_clusters: Tensor,
    centroids: Tensor,
    origin: Tensor,
    m: int,
    spherical: bool,
    fast: bool,
) -> tuple[Tensor, Tensor]:
    ids = torch.empty(len(x), m, dtype=torch.int64, device=x.device)
    found = torch.empty(len(x), m, dtype=torch.float64, device=x.device)
    width = max(x.shape[1], *cu_clusters.diff().tolist(), 1)
    for problem, start, block in _blocks(x, cu_rows, width):
        c = centroids[cu_clusters[problem] : cu_clusters[problem + 1]].double() - origin[problem]
        y, end = framed(block, origin[problem], spherical), start + len(block)
        ids[start:end] = nearest = _nearest(y, c, m, spherical)
        for place in range(m):
            found[start:end, place] = distances_between(y, c[nearest[:, place]], spherical)
    return ids, found


def plus_plus(x: Tensor, *inputs: Any) -> Tensor:
    return by_distances(distances, x, *inputs)


def accumulate(
    x: Tensor, centroids: Tensor, weights: Tensor | None, frame: Frame, spherical: bool, fast: bool
) -> Assigned:
    clusters = torch.tensor([0, len(centroids)])
    ids, away = assign(x, _whole(x), clusters, centroids, frame.origin, 1, spherical, fast)
    labels, away = ids[:, 0], away[:, 0]
    sums = torch.zeros(centroids.shape, dtype=torch.int64, device=x.device)
    for _, start, block in _blocks(x, _whole(x), x.shape[1]):
        part = slice(start, start + len(block))
        y = framed(block, frame.origin[0], spherical)
        sums.index_add_(0, labels[part], integers(y, None if weights is None else weights[part], frame.sum_scale))
    heavy = integers(torch.ones_like(away), weights, frame.weight_scale)
    sizes = torch.bincount(labels, minlength=len(centroids))
    inertia = integers(away, weights, frame.inertia_scale).sum()
    return Assigned(labels, away, sums, torch.zeros_like(sizes).index_add_(0, labels, heavy), sizes, inertia)


def fit(
    x: Tensor,
    cu_rows: Tensor,
    cu_clusters: Tensor,
    centroids: Tensor,
    weights: Tensor | None,
    frame: Frame,
    threshold: Tensor,
    by_inertia: bool,
    max_iter: int,
    empty: Empty,
    spherical: bool,
    fast: bool,
) -> Fit:
    fits = []
    for problem in range(len(cu_rows) - 1):
        part = slice(int(cu_rows[problem]), int(cu_rows[problem + 1]))
        rows = InMemory(
            x[part],
            None if weights is None else weights[part],
            frame.of(problem),
            partial(accumulate, spherical=spherical, fast=fast),
        )
        clusters = slice(int(cu_clusters[problem]), int(cu_clusters[problem + 1]))
        fits.append(
            lloyd(
                rows,
                centroids[clusters],
                rows.frame,
                threshold=float(threshold[problem]),
                by_inertia=by_inertia,
                max_iter=max_iter,
                empty=empty,
                spherical=spherical,
            )
        )
    return Fit(*(torch.cat(parts) for parts in zip(*fits, strict=True)))


def fit_known(x: Tensor, cu_rows: Tensor, cu_clusters: Tensor, *inputs: Any) -> tuple[Fit, Known, Tensor]:
    """It makes no use of what is known, and finds out nothing."""
    out = fit(x, cu_rows, cu_clusters, *inputs[:-1])
    nothing = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    products = (out.n_iter + 1) * cu_rows.diff() * cu_clusters.diff()
    return out, Known(out.labels, nothing + torch.inf, nothing), products


_PRIMITIVES = {
    function.__name__: function
    for function in (
        extremes,
        column_sums,
        hashes,
        square_sums,
        distances,
        assign,
        plus_plus,
        accumulate,
        fit,
        fit_known,
    )
}


def _shifted(words: Tensor, by: int) -> Tensor:
    """To the right, zeros from the left."""
    return words >> by & (1 << 64 - by) - 1


def _rotated(words: Tensor, by: int) -> Tensor:
    """To the left."""
    return words << by | _shifted(words, 64 - by)


def _whole(x: Tensor) -> Tensor:
    return torch.tensor([0, len(x)])


def _blocks(x: Tensor, cu_rows: Tensor, width: int) -> Iterator[tuple[int, int, Tensor]]:
    """(problem, first row, rows) so that ``width`` float64 numbers a row stay within a block's bytes."""
    step = max(1, _BLOCK_BYTES // (8 * max(1, width)))
    bounds = cu_rows.tolist()
    for problem, (begin, end) in enumerate(pairwise(bounds)):
        for start in range(begin, end, step):
            yield problem, start, x[start : min(end, start + step)]


def _nearest(y: Tensor, c: Tensor, m: int, spherical: bool) -> Tensor:
    """The m lowest scores of each row, ids [n, m]; only what the screen leaves open is scored exactly."""
    half = half_squares(c, spherical)
    screen, unsure = half - y @ c.T, _unsure(y, c)
    last = screen.amin(1) if m == 1 else screen.kthvalue(m, dim=1).values
    open_ = screen <= (last + 2 * unsure)[:, None]
    ids = screen.argmin(1)[:, None].repeat(1, m)
    rows = (open_.sum(1) > 1).nonzero()[:, 0]
    scores = torch.full((len(rows), len(c)), float("inf"), dtype=y.dtype, device=y.device)
    for row, cluster in _pairs(open_[rows], y.shape[1]):
        scores[row, cluster] = half[cluster] - lane8(y[rows[row]] * c[cluster])
    ids[rows] = torch.argsort(scores, dim=1, stable=True)[:, :m]
    return ids


def _closer(y: Tensor, c: Tensor, limit: Tensor, spherical: bool) -> Tensor:
    """The lesser of limit and distance [n, K]; distances that the screen cannot rule out are exact."""
    products = y @ c.T
    screen = 1 - products if spherical else y.square().sum(1, keepdim=True) - 2 * products + c.square().sum(1)
    found = limit[:, None].repeat(1, len(c))
    for row, cluster in _pairs(screen <= (limit + 4 * _unsure(y, c))[:, None], y.shape[1]):
        found[row, cluster] = torch.minimum(limit[row], distances_between(y[row], c[cluster], spherical))
    return found


def _unsure(y: Tensor, c: Tensor) -> Tensor:
    """How far a screen may be from the score, [n].

    A dot product added in whatever order, lane8 among them, is within ``(d + 4) 2^-53 |y| |c|`` of the true one; with
    the squares, screen and score are each within ``(d + 4) 2^-53 (|y| + |c|)^2``. Twice the sum of the two is taken.
    """
    reach = y.square().sum(1).sqrt() + c.square().sum(1).max().sqrt()
    return (c.shape[1] + 4) * 2.0**-51 * reach * reach + torch.finfo(c.dtype).tiny


def _pairs(chosen: Tensor, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and columns of what is true, as many at a time as rows of ``columns`` float64 numbers fill a block."""
    row, cluster = chosen.nonzero(as_tuple=True)
    step = max(1, _BLOCK_BYTES // (8 * columns))
    for start in range(0, len(row), step):
        yield row[start : start + step], cluster[start : start + step]
