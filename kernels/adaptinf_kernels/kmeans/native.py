"""The primitives of ``ops.py`` by the native module (``csrc/kmeans/``) on the CPU; ``native_cuda.py`` has CUDA."""

from __future__ import annotations

from typing import Any

import torch
from adaptinf_kernels import _native
from adaptinf_kernels.kmeans import native_cuda
from adaptinf_kernels.kmeans.arithmetic import Frame
from adaptinf_kernels.kmeans.ops import Assigned, Empty, Extremes, Fit, Known
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def not_supported_reasons(primitive: str, x: Tensor, *inputs: Any) -> list[str]:
    """Tensors of floating point on the CPU; what ``native_cuda`` takes on CUDA devices."""
    if x.device.type == "cuda":
        return native_cuda.not_supported_reasons(primitive, x, *inputs)
    reasons = [] if x.dtype in _DTYPES else [f"x is {x.dtype}; it takes float32, float16, bfloat16 and float64"]
    return [*_native.reasons_against(x.device), *reasons]


def run(primitive: str, x: Tensor, *inputs: Any) -> Any:
    if x.device.type == "cuda":
        return native_cuda.run(primitive, x, *inputs)
    return _PRIMITIVES[primitive](_native.rows_contiguous(x.detach()), *map(_native.contiguous, inputs))


def extremes(x: Tensor, cu_rows: Tensor) -> Extremes:
    problems, columns = len(cu_rows) - 1, x.shape[1]
    low, high = torch.empty(2, problems, columns, dtype=torch.float64)
    bad = torch.empty(problems, dtype=torch.int64)
    _native.native().kmeans_extremes(_native.view(x), _native.view(cu_rows), _views(low, high, bad), _native.threads())
    return Extremes(low, high, bad)


def column_sums(x: Tensor, cu_rows: Tensor, scale: Tensor) -> Tensor:
    sums = torch.empty(len(cu_rows) - 1, x.shape[1], dtype=torch.int64)
    _native.native().kmeans_column_sums(_native.view(x), *_views(cu_rows, scale, sums), _native.threads())
    return sums


def hashes(x: Tensor) -> Tensor:
    out = torch.empty(len(x), dtype=torch.int64)
    _native.native().kmeans_hashes(_native.view(x), _native.view(out), _native.threads())
    return out


def square_sums(x: Tensor, cu_rows: Tensor, origin: Tensor, scale: Tensor, spherical: bool) -> Tensor:
    sums = torch.empty(len(cu_rows) - 1, dtype=torch.int64)
    _native.native().kmeans_square_sums(
        _native.view(x), *_views(cu_rows, origin, scale), spherical, _native.view(sums), _native.threads()
    )
    return sums


def distances(x: Tensor, origin: Tensor, centroids: Tensor, limit: Tensor | None, spherical: bool) -> Tensor:
    out = torch.empty(len(x), len(centroids), dtype=torch.float64)
    _native.native().kmeans_distances(
        _native.view(x),
        *_views(origin[None], centroids),
        None if limit is None else _native.view(limit),
        spherical,
        _native.view(out),
        _native.threads(),
    )
    return out


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
    ids = torch.empty(len(x), m, dtype=torch.int64)
    found = torch.empty(len(x), m, dtype=torch.float64)
    _native.native().kmeans_assign(
        _native.view(x),
        *_views(cu_rows, cu_clusters, centroids, origin),
        m,
        spherical,
        fast,
        *_views(ids, found),
        _native.threads(),
    )
    return ids, found


def plus_plus(
    x: Tensor,
    cu_rows: Tensor,
    cu_clusters: Tensor,
    weights: Tensor | None,
    frame: Frame,
    draws: Tensor,
    cu_draws: Tensor,
    spherical: bool,
) -> Tensor:
    ids = torch.empty(int(cu_clusters[-1]), dtype=torch.int64)
    _native.native().kmeans_plus_plus(
        _native.view(x),
        *_views(cu_rows, cu_clusters),
        None if weights is None else _native.view(weights),
        _views(*frame),
        *_views(draws, cu_draws),
        spherical,
        _native.view(ids),
        _native.threads(),
    )
    return ids


def accumulate(
    x: Tensor, centroids: Tensor, weights: Tensor | None, frame: Frame, spherical: bool, fast: bool
) -> Assigned:
    k, columns = centroids.shape
    out = Assigned(
        labels=torch.empty(len(x), dtype=torch.int64),
        distances=torch.empty(len(x), dtype=torch.float64),
        sums=torch.empty(k, columns, dtype=torch.int64),
        weights=torch.empty(k, dtype=torch.int64),
        sizes=torch.empty(k, dtype=torch.int64),
        inertia=torch.empty(1, dtype=torch.int64),
    )
    _native.native().kmeans_accumulate(
        _native.view(x),
        _native.view(centroids),
        None if weights is None else _native.view(weights),
        _views(*frame),
        spherical,
        fast,
        _views(*out),
        _native.threads(),
    )
    return out._replace(inertia=out.inertia[0])


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
    known: list[Tensor] | None = None,
) -> Fit:
    """``known``: labels, upper, lower and products, of which the last three are written."""
    problems, k = len(cu_rows) - 1, len(centroids)
    out = Fit(
        labels=torch.empty(len(x), dtype=torch.int64),
        centroids=centroids.detach().clone(memory_format=torch.contiguous_format),
        sizes=torch.empty(k, dtype=torch.int64),
        weights=torch.empty(k, dtype=torch.int64),
        radii=torch.empty(k, dtype=torch.float64),
        inertia=torch.empty(problems, dtype=torch.int64),
        n_iter=torch.empty(problems, dtype=torch.int64),
        changed=torch.empty(problems, dtype=torch.int64),
    )
    _native.native().kmeans_fit(
        _native.view(x),
        *_views(cu_rows, cu_clusters, out.centroids),
        None if weights is None else _native.view(weights),
        _views(*frame),
        _native.view(threshold),
        by_inertia,
        max_iter,
        empty,
        spherical,
        fast,
        _views(out.labels, out.sizes, out.weights, out.radii, out.inertia, out.n_iter, out.changed),
        None if known is None else _views(*known),
        _native.threads(),
    )
    return out


def fit_known(x: Tensor, cu_rows: Tensor, *inputs: Any) -> tuple[Fit, Known, Tensor]:
    known: Known = inputs[-1]
    upper, lower = known.upper.clone(), known.lower.clone()
    products = torch.empty(len(cu_rows) - 1, dtype=torch.int64)
    out = fit(x, cu_rows, *inputs[:-1], known=[known.labels, upper, lower, products])
    return out, Known(out.labels, upper, lower), products


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


def _views(*tensors: Tensor) -> list[tuple[int, list[int], list[int], int, int, int]]:
    return [_native.view(tensor) for tensor in tensors]
