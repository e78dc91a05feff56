"""The primitives of ``ops.py`` by the native module on CUDA devices (``csrc/kmeans/*_cuda.h``)."""

from __future__ import annotations

from typing import Any

import torch
from adaptinf_kernels import _native
from adaptinf_kernels.kmeans.arithmetic import Frame
from adaptinf_kernels.kmeans.ops import Assigned, Empty, Extremes, Fit
from adaptinf_kernels.kmeans.plus_plus import by_distances
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_EMPTY: dict[Empty, int] = {"keep": 0, "farthest": 1, "split": 2}


def not_supported_reasons(primitive: str, x: Tensor, *inputs: Any) -> list[str]:
    """Rows that tensor cores can screen: no float64. Nothing is remembered of a fit."""
    reasons = []
    if primitive not in _PRIMITIVES:
        reasons.append(f"it has no CUDA kernel for {primitive}")
    if x.dtype not in _DTYPES:
        reasons.append(f"x is {x.dtype}; on CUDA devices it takes float32, float16 and bfloat16")
    if x.shape[1] == 0:
        reasons.append("x has no columns")
    return [*_native.reasons_against(x.device), *reasons]


def run(primitive: str, x: Tensor, *inputs: Any) -> Any:
    return _PRIMITIVES[primitive](_native.rows_contiguous(x.detach()), *map(_native.contiguous, inputs))


def extremes(x: Tensor, cu_rows: Tensor) -> Extremes:
    problems, columns = len(cu_rows) - 1, x.shape[1]
    infinity = torch.full((problems, columns), float("inf"), dtype=torch.float64, device=x.device)
    found = Extremes(infinity, -infinity, torch.full((problems,), -1, device=x.device))
    _on_rows("extremes", x, cu_rows, *_views(*found))
    return found


def column_sums(x: Tensor, cu_rows: Tensor, scale: Tensor) -> Tensor:
    sums = torch.zeros(len(cu_rows) - 1, x.shape[1], dtype=torch.int64, device=x.device)
    _on_rows("column_sums", x, cu_rows, *_views(scale, sums))
    return sums


def square_sums(x: Tensor, cu_rows: Tensor, origin: Tensor, scale: Tensor, spherical: bool) -> Tensor:
    sums = torch.zeros(len(cu_rows) - 1, dtype=torch.int64, device=x.device)
    _on_rows("square_sums", x, cu_rows, *_views(origin, scale), spherical, _native.view(sums))
    return sums


def distances(x: Tensor, origin: Tensor, centroids: Tensor, limit: Tensor | None, spherical: bool) -> Tensor:
    found = torch.empty(len(x), len(centroids), dtype=torch.float64, device=x.device)
    bounds = torch.empty(2, dtype=torch.int64, device=x.device)
    _native.native().kmeans_distances_cuda(
        *_views(x, bounds, origin[None], centroids),
        None if limit is None else _native.view(limit),
        spherical,
        _native.view(found),
        _native.stream(x.device),
    )
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
    n, problems = len(x), len(cu_rows) - 1
    ids = torch.empty(n, m, dtype=torch.int64, device=x.device)
    found = torch.empty(n, m, dtype=torch.float64, device=x.device)
    module = _native.native()
    size = module.kmeans_assign_cuda_workspace(n, x.shape[1], len(centroids), problems, m, spherical, fast)
    workspace = _native.workspace(size, x.device)
    module.kmeans_assign_cuda(
        _native.view(x),
        cu_rows.tolist(),
        cu_clusters.tolist(),
        *_views(centroids, origin),
        (spherical, fast),
        *_views(ids, found, workspace),
        _native.stream(x.device),
    )
    return ids, found


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
    options = (by_inertia, _EMPTY[empty], spherical, fast)
    return _fit(x, cu_rows, cu_clusters, centroids, weights, frame, threshold, max_iter, options)[0]


def plus_plus(x: Tensor, *inputs: Any) -> Tensor:
    return by_distances(distances, x, *inputs)


def accumulate(
    x: Tensor, centroids: Tensor, weights: Tensor | None, frame: Frame, spherical: bool, fast: bool
) -> Assigned:
    """A fit that ends with its first assignment."""
    bounds = torch.tensor([0, len(x)]), torch.tensor([0, len(centroids)])
    options = (False, _EMPTY["keep"], spherical, fast)
    threshold = torch.zeros(1, dtype=torch.float64, device=x.device)
    found, distances, sums = _fit(x, *bounds, centroids, weights, frame, threshold, 0, options)
    return Assigned(found.labels, distances, sums, found.weights, found.sizes, found.inertia[0])


def _fit(
    x: Tensor,
    cu_rows: Tensor,
    cu_clusters: Tensor,
    centroids: Tensor,
    weights: Tensor | None,
    frame: Frame,
    threshold: Tensor,
    max_iter: int,
    options: tuple[bool, int, bool, bool],
) -> tuple[Fit, Tensor, Tensor]:
    """The fit, distances [N] and integer sums [sum K, d]."""
    n, problems, k = len(x), len(cu_rows) - 1, len(centroids)

    def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    out = Fit(
        labels=empty(n),
        centroids=centroids.clone(memory_format=torch.contiguous_format),
        sizes=empty(k),
        weights=empty(k),
        radii=empty(k, dtype=torch.float64),
        inertia=empty(problems),
        n_iter=empty(problems),
        changed=empty(problems),
    )
    distances, sums = empty(n, dtype=torch.float64), empty(k, x.shape[1])
    module = _native.native()
    size = module.kmeans_fit_cuda_workspace(n, x.shape[1], k, problems, *options[2:])
    workspace = _native.workspace(size, x.device)
    outputs = (distances, sums, out.sizes, out.weights, out.radii, out.inertia, out.n_iter, out.changed)
    module.kmeans_fit_cuda(
        _native.view(x),
        cu_rows.tolist(),
        cu_clusters.tolist(),
        _native.view(out.centroids),
        None if weights is None else _native.view(weights),
        _views(*frame),
        _native.view(threshold),
        max_iter,
        options,
        _views(out.labels, *outputs),
        _native.view(workspace),
        _native.stream(x.device),
    )
    return out, distances, sums


def _on_rows(name: str, x: Tensor, cu_rows: Tensor, *arguments: Any) -> None:
    """``kmeans_<name>_cuda``, with room on the device for ``cu_rows``."""
    bounds = torch.empty(len(cu_rows), dtype=torch.int64, device=x.device)
    entry = getattr(_native.native(), f"kmeans_{name}_cuda")
    entry(_native.view(x), cu_rows.tolist(), _native.view(bounds), *arguments, _native.stream(x.device))


def _views(*tensors: Tensor) -> list[Any]:
    return [_native.view(tensor) for tensor in tensors]


_PRIMITIVES = {
    function.__name__: function
    for function in (extremes, column_sums, square_sums, distances, assign, plus_plus, accumulate, fit)
}
