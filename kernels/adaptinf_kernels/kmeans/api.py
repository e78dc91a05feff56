"""k-means clustering."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from adaptinf_kernels._arrays import as_tensor, like
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.errors import NotSupportedError
from adaptinf_kernels.kmeans.arithmetic import largest, square_root
from adaptinf_kernels.kmeans.layout import Layout, check_counts, lay_out, single
from adaptinf_kernels.kmeans.memory import Memory
from adaptinf_kernels.kmeans.options import Empty, Init, Metric, NonFinite, Options, Precision, Stop
from adaptinf_kernels.kmeans.problem import Fitted, check_weights, fit_in_memory, settle
from adaptinf_kernels.kmeans.ranks import Alone, Group
from adaptinf_kernels.kmeans.result import KMeansResult
from adaptinf_kernels.kmeans.stream import fit_in_chunks
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)


def kmeans(
    x: Array | Iterable[Array],
    k: int | Sequence[int],
    *,
    cu_rows: Array | None = None,
    init: Init | Array | KMeansResult[Array] = "k-means++",
    max_iter: int = 100,
    tol: float = 1e-4,
    stop: Stop = "shift",
    metric: Metric = "euclidean",
    precision: Precision = "exact",
    sample_weight: Array | None = None,
    empty: Empty = "farthest",
    non_finite: NonFinite = "error",
    seed: int = 0,
    group: dist.ProcessGroup | None = None,
    remember: bool = False,
    impl: Impl = "auto",
) -> KMeansResult[Array]:
    """Lloyd's k-means: ``min sum_i w_i |x_i - c_{label(i)}|^2``, or ``w_i (1 - cos)`` over unit rows and centroids.

    Labels, centroids, inertia and sizes have the same bits for any number of threads, place in a batch and
    implementation: sums over rows are sums of integers, and a label is the nearest centroid by a float64 score added in
    one order (README.md). With fewer distinct rows than clusters some stay empty, and a warning is logged. With the
    cosine metric a zero row is at distance 1 from everything.

    Args:
        x: [N, d], or [B, N, d] for B problems of one size, torch or NumPy, float16, bfloat16, float32 or float64; the
            result is of the same family. A ``np.memmap`` is read in chunks, and so is an iterable of chunks [n, d] that
            can be iterated again (not an iterator); each pass reads them once, with the same bits as in memory. Beside
            a chunk that takes 16 bytes a row, and for "k-means++" 256 k rows.
        k: clusters, 1 to N, or their numbers, one for each problem of a batch.
        cu_rows: int32 or int64 [B + 1]: problem b has the rows ``cu_rows[b]`` to ``cu_rows[b + 1]`` of x [N, d].
        init: "k-means++" (greedy, 2 + log k candidates; on 256 k rows drawn by the seed where there are more),
            "k-means||" (5 rounds, 2 k rows drawn in each), "random" (k distinct rows), or centroids [k, d], for a batch
            [B, k, d] or, where k differ, [sum k, d]; or the result of a former fit, which stands for its centroids.
        max_iter: at most so many iterations; 0 labels the rows with the starting centroids.
        tol: see ``stop``.
        stop: an iteration that changes no label is the last; so is, with "shift", one where the centroids' squared
            shift is at most ``tol`` times the mean variance of the columns (the meaning of scikit-learn), and with
            "inertia" one that lowers the inertia by at most ``tol`` of it; "labels" adds nothing.
        metric: "euclidean" or "cosine" (spherical k-means).
        precision: "exact", or "fast": labels by low-precision scores where the implementation has such; near ties get
            a second look by a bound that is likely, not proven (CPUs), or none (CUDA).
        sample_weight: [N] or [B, N], not negative, at most 2^300; k-means++ and k-means|| draw with chances in
            proportion to it.
        empty: what becomes of a cluster without rows: "farthest" gives it the row farthest from its centroid, "split"
            that of the largest cluster, "keep" leaves it, "error" raises if it is empty in the end.
        non_finite: of rows with NaN or infinity: "error", or "ignore" (label -1, everything else as if they were not).
        seed: of the initialisation, the same for each problem of a batch.
        group: the rows lie on the ranks of this ``torch.distributed`` group, each of which calls with its own x and
            ``sample_weight`` (and otherwise the same); they are those of rank 0, then of rank 1, and so on. ``labels``
            are of the rank's rows, everything else is the same on all ranks, with the same bits for any number of them.
        remember: the result keeps a hash and bounds of each row (32 bytes), so that a fit with it as ``init`` need not
            look again at rows that are the same, wherever they now lie in their problem. Labels and centroids have the
            bits that they have without it, whatever changed (but for two rows with one hash of 64 bits). For rows in
            memory, on CPUs.
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: k > N (both are named), a NaN or infinity (its row is named), or another impossible value.
        TypeError: an array is none, or has the wrong dtype.
        NotSupportedError: ``impl`` cannot run on these inputs, or ``remember`` is asked for of rows that are not in the
            memory of a CPU.

    Source: Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++); Bahmani et al. 2012 (k-means||); Dhillon & Modha 2001
    (spherical).
    """
    options = Options(max_iter, tol, stop, metric, precision, empty, non_finite, seed, impl, remember)
    former = None
    if isinstance(init, KMeansResult):
        init, former = _continued(init, metric)
    if group is not None or isinstance(x, np.memmap) or not hasattr(x, "__dlpack__"):
        return _in_chunks(x, k, cu_rows, init, sample_weight, group, options)
    matrix, layout = lay_out(as_tensor("x", cast("Any", x)), k, cu_rows)
    check_counts(layout, layout.cu_rows.diff())
    first = check_init(init, layout, matrix.shape[1])
    if matrix.device.type != "cpu":
        if remember:
            raise NotSupportedError("kmeans: remember=True", [f"x is on {matrix.device}, it is for the CPU"])
        former = None
    if former is not None and not torch.equal(former.cu_clusters, layout.cu_clusters):
        former = None  # the same centroids, dealt out to other problems: the labels say nothing
    weights = None if sample_weight is None else check_weights(sample_weight, len(matrix), matrix.device)
    fitted, finite = fit_in_memory(matrix, layout, first, former, weights, options)
    settle(fitted.fit, layout, options)
    return deliver(x, fitted, finite, layout, options)


def _in_chunks(
    x: Any, k: Any, cu_rows: Any, init: Any, sample_weight: Any, group: dist.ProcessGroup | None, options: Options
) -> KMeansResult[Any]:
    if cu_rows is not None or not isinstance(k, (int, np.integer)):
        raise ValueError("chunks and ranks are for one problem: k must be one number, and cu_rows None")
    if k < 1:
        raise ValueError(f"k={k}: k must be from 1 to N")
    if options.remember:
        raise NotSupportedError("kmeans: remember=True", ["x comes in chunks or on ranks, it is for rows in memory"])
    first = init
    if not isinstance(init, str):
        given = as_tensor("init", init)
        first = check_init(given, single(0, int(k)), given.shape[-1])
    else:
        check_init(init, single(0, int(k)), 0)
    ranks = Alone() if group is None else Group(group)
    fitted, finite, chunk = fit_in_chunks(x, int(k), first, sample_weight, ranks, options)
    layout = single(len(fitted.fit.labels), int(k))
    settle(fitted.fit, layout, options)
    return deliver(chunk, fitted, finite, layout, options)


def _continued(former: KMeansResult[Any], metric: Metric) -> tuple[Any, Memory | None]:
    """The centroids of a former fit, and what it remembers."""
    if former.metric != metric:
        raise ValueError(f"init was clustered with metric={former.metric!r}, not {metric!r}; give init=init.centroids")
    return former.centroids, former.memory


def check_init(init: Any, layout: Layout, columns: int) -> str | Tensor:
    """The name of an initialisation, or centroids [sum K, d]."""
    if isinstance(init, str):
        if init not in ("k-means++", "k-means||", "random"):
            raise ValueError(f"init={init!r}: choose from k-means++, k-means||, random, or give centroids [k, d]")
        return init
    start = as_tensor("init", init)
    if not start.is_floating_point():
        raise TypeError(f"init must be floating point, not {start.dtype}")
    total = int(layout.cu_clusters[-1])
    shape = [total, columns]
    if not layout.single and layout.clusters_each is not None:
        shape = [layout.problems, layout.clusters_each, columns]
    if list(start.shape) != shape:
        form = "[k, d]" if layout.single else "[B, k, d]" if len(shape) == 3 else "[sum k, d]"
        raise ValueError(f"init must be {form} = {shape}, not {list(start.shape)}")
    start = start.reshape(total, columns)
    if not math.isfinite(largest(start)):
        raise ValueError(f"init has NaN or infinity in row {int((~torch.isfinite(start).all(1)).nonzero()[0])}")
    return start


def deliver(x: Any, fitted: Fitted, finite: Tensor | None, layout: Layout, options: Options) -> KMeansResult[Any]:
    """The state of a fit as arrays of the family of ``x``."""
    fit, frame, memory = fitted
    labels = fit.labels
    if finite is not None:
        labels = torch.full(finite.shape, -1, dtype=torch.int64, device=labels.device)
        labels[finite] = fit.labels
    counts = layout.cu_clusters.diff().to(labels.device)
    radii = fit.radii if options.spherical else square_root(fit.radii)
    problems = [
        layout.of_problems(part) for part in (fit.inertia.double() / frame.inertia_scale, fit.n_iter, fit.changed)
    ]
    inertia, n_iter, changed = (like(x, part) if isinstance(part, Tensor) else part for part in problems)
    return KMeansResult(
        labels=like(x, layout.of_rows(labels)),
        centroids=like(x, layout.of_clusters(fit.centroids)),
        inertia=inertia,
        n_iter=n_iter,
        sizes=like(x, layout.of_clusters(fit.sizes)),
        weights=like(x, layout.of_clusters(fit.weights.double() / frame.weight_scale.repeat_interleave(counts))),
        radii=like(x, layout.of_clusters(radii)),
        changed=changed,
        origin=like(x, layout.of_problems(frame.origin)),
        metric=options.metric,
        cu_clusters=None if layout.clusters_each is not None else like(x, layout.cu_clusters),
        memory=memory,
    )
