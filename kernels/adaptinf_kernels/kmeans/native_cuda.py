"""The primitives of ``ops.py`` by the native module on CUDA devices (``csrc/kmeans/fit_cuda.h``)."""

from __future__ import annotations

from typing import Any

import torch
from adaptinf_kernels import _native
from adaptinf_kernels.kmeans.arithmetic import Frame
from adaptinf_kernels.kmeans.ops import Assigned, Empty, Fit
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_EMPTY: dict[Empty, int] = {"keep": 0, "farthest": 1, "split": 2}


def not_supported_reasons(primitive: str, x: Tensor, *inputs: Any) -> list[str]:
    """``fit`` and ``accumulate`` of rows that tensor cores can screen."""
    reasons = []
    if primitive not in _PRIMITIVES:
        reasons.append(f"it has no CUDA kernel for {primitive}, only for {', '.join(_PRIMITIVES)}")
    if x.dtype not in _DTYPES:
        reasons.append(f"x is {x.dtype}; on CUDA devices it takes float32, float16 and bfloat16")
    if x.shape[1] == 0:
        reasons.append("x has no columns")
    return [*_native.reasons_against(x.device), *reasons]


def run(primitive: str, x: Tensor, *inputs: Any) -> Any:
    return _PRIMITIVES[primitive](_native.rows_contiguous(x.detach()), *inputs)


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
    weights = None if weights is None else weights.contiguous()
    frame, threshold = Frame(*(part.contiguous() for part in frame)), threshold.contiguous()
    module = _native.native()
    workspace = empty(module.kmeans_fit_cuda_workspace(n, x.shape[1], k, problems, *options[2:]), dtype=torch.int8)
    outputs = (distances, sums, out.sizes, out.weights, out.radii, out.inertia, out.n_iter, out.changed)
    module.kmeans_fit_cuda(
        _native.view(x),
        cu_rows.tolist(),
        cu_clusters.tolist(),
        _native.view(out.centroids),
        None if weights is None else _native.view(weights),
        [_native.view(part) for part in frame],
        _native.view(threshold),
        max_iter,
        options,
        [_native.view(part) for part in (out.labels, *outputs)],
        _native.view(workspace),
        _native.stream(x.device),
    )
    return out, distances, sums


_PRIMITIVES = {"fit": fit, "accumulate": accumulate}
