"""k-means clustering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from adaptinf_kernels._arrays import as_matrix, like
from adaptinf_kernels._dispatch import Impl, Op
from torch import Tensor

_OP = Op("kmeans", "reference")

Array = TypeVar("Array", Tensor, np.ndarray)


@dataclass(frozen=True, eq=False)
class KMeansResult(Generic[Array]):
    """A clustering; labels, centroids and inertia are of one state.

    Attributes:
        labels: int64 [N], the nearest centroid, ties to the lowest id.
        centroids: float32 [K, d], float64 for float64 data.
        inertia: sum over the rows of the squared Euclidean distance, or of 1 - cosine.
        n_iter: iterations run.
        sizes: int64 [K], rows per cluster.
    """

    labels: Array
    centroids: Array
    inertia: float
    n_iter: int
    sizes: Array


def kmeans(
    x: Array,
    k: int,
    *,
    init: Literal["k-means++", "random"] | Array = "k-means++",
    max_iter: int = 100,
    tol: float = 1e-4,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    seed: int = 0,
    impl: Impl = "auto",
) -> KMeansResult[Array]:
    """Lloyd's k-means: ``min sum_i ||x_i - c_{label(i)}||^2``, or ``1 - cos`` over unit rows and unit centroids.

    Distances and sums are float64, the data's mean subtracted first, so the result does not depend on where the data
    lies; the same input and seed give the same bits. A cluster that runs empty is given the point farthest from its
    centroid. With fewer distinct rows than clusters some stay empty (size 0), and a warning is logged. With the cosine
    metric a zero row is at distance 1 from everything.

    Args:
        x: [N, d], torch or NumPy, floating point; the result is of the same family.
        k: clusters, 1 to N.
        init: "k-means++" (greedy, 2 + log k candidates), "random" (k distinct rows) or centroids [k, d].
        max_iter: at most so many iterations, at least 1.
        tol: stop where the centroids' squared shift is at most ``tol`` times the mean variance of the columns (the
            meaning of scikit-learn); it also stops where no label changes.
        metric: "euclidean" or "cosine" (spherical k-means).
        seed: of the initialisation.
        impl: "auto" or "reference".

    Raises:
        ValueError: k > N (both are named), a NaN or infinity (its row is named), or another impossible value.
        TypeError: ``x`` is no floating-point matrix.
        NotSupportedError: ``impl`` cannot run on these inputs.

    Source: Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++); Dhillon & Modha 2001 (spherical).
    """
    matrix = as_matrix("x", x)
    if not 1 <= k <= len(matrix):
        raise ValueError(f"k={k} clusters of N={len(matrix)} rows: k must be from 1 to N")
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"metric={metric!r}: choose from euclidean, cosine")
    if max_iter < 1 or not tol >= 0 or seed < 0:
        raise ValueError(f"max_iter={max_iter} must be at least 1, tol={tol} and seed={seed} not negative")
    start: Any = init
    if isinstance(init, str):
        if init not in ("k-means++", "random"):
            raise ValueError(f"init={init!r}: choose from k-means++, random, or give centroids [k, d]")
    else:
        start = as_matrix("init", init)
        if start.shape != (k, matrix.shape[1]):
            raise ValueError(f"init must be [k, d] = [{k}, {matrix.shape[1]}], not {list(start.shape)}")
    fit = _OP(impl, matrix, k, start, max_iter, tol, metric == "cosine", seed)
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    return KMeansResult(
        labels=like(x, fit.labels),
        centroids=like(x, fit.centroids.to(dtype)),
        inertia=fit.inertia,
        n_iter=fit.n_iter,
        sizes=like(x, torch.bincount(fit.labels, minlength=k)),
    )
