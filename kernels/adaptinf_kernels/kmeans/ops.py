"""What an implementation of k-means provides, on plain tensors and numbers; everything else is Python on top of it.

An implementation module has ``run(primitive, *inputs)`` and ``not_supported_reasons(primitive, *inputs)``; ``inputs``
are the arguments of the function here that has the primitive's name, in their order, without ``impl``.

Common to all: ``x`` [N, d], d > 0, is float16, bfloat16, float32 or float64 with any strides, and finite (but for
``extremes``). Problem b has the rows ``cu_rows[b]`` to ``cu_rows[b + 1]`` and the clusters ``cu_clusters[b]`` to
``cu_clusters[b + 1]`` (int64 [B + 1], on the CPU, checked); labels and ids count from zero in each problem.
``centroids`` [sum K, d] are in the state dtype: float64 for float64 rows, otherwise float32. ``weights`` are float64
[N], or None: 1.
The rows become ``y = x - origin``, or ``x / |x|`` where ``spherical``. All results are on the device of ``x``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from adaptinf_kernels._dispatch import Op
from adaptinf_kernels.kmeans.arithmetic import Frame
from torch import Tensor

OP = Op("kmeans", "native", "reference")

Empty = Literal["farthest", "split", "keep"]


class Extremes(NamedTuple):
    """Of each problem: least and largest value of each column, float64 [B, d] (+inf and -inf without rows), and the
    first row of ``x`` that holds NaN or infinity, int64 [B], -1 if none does; if one does, the extremes mean nothing.
    The sign of a zero is not defined.
    """

    low: Tensor
    high: Tensor
    bad: Tensor


class Assigned(NamedTuple):
    """One problem's rows labelled with fixed centroids, and what they add to each cluster.

    Attributes:
        labels: int64 [n]. distances: float64 [n], to the nearest centroid.
        sums: int64 [K, d]. weights: int64 [K]. sizes: int64 [K], rows. inertia: int64, no dimensions.
    """

    labels: Tensor
    distances: Tensor
    sums: Tensor
    weights: Tensor
    sizes: Tensor
    inertia: Tensor


class Fit(NamedTuple):
    """The state that Lloyd's iteration ended in: everything belongs to the centroids returned.

    Attributes:
        labels: int64 [N]. centroids: [sum K, d]. sizes, weights: int64 [sum K], rows and integer weights.
        radii: float64 [sum K], the largest distance of a cluster's rows, 0 without rows.
        inertia: int64 [B]. n_iter: int64 [B]. changed: int64 [B], rows that the last iteration relabelled.
    """

    labels: Tensor
    centroids: Tensor
    sizes: Tensor
    weights: Tensor
    radii: Tensor
    inertia: Tensor
    n_iter: Tensor
    changed: Tensor


class Known(NamedTuple):
    """What is known of rows and centroids, whatever the frame: ``|x_i - C_label| <= upper_i`` and, for all other
    clusters j of the problem, ``|x_i - C_j| >= lower_i``; x are unit rows where ``spherical``.

    Attributes:
        labels: int64 [N], -1 where nothing is known. upper, lower: float64 [N].
    """

    labels: Tensor
    upper: Tensor
    lower: Tensor


def extremes(impl: str, x: Tensor, cu_rows: Tensor) -> Extremes:
    """Range of each column and the first bad row."""
    return OP(impl, "extremes", x, cu_rows)


def column_sums(impl: str, x: Tensor, cu_rows: Tensor, scale: Tensor) -> Tensor:
    """int64 [B, d]: sums over the rows of ``rint(x_it scale_b)``; ``scale`` float64 [B] are powers of two."""
    return OP(impl, "column_sums", x, cu_rows, scale)


def hashes(impl: str, x: Tensor) -> Tensor:
    """int64 [N]: a hash of the bytes of each row; see README.md."""
    return OP(impl, "hashes", x)


def square_sums(impl: str, x: Tensor, cu_rows: Tensor, origin: Tensor, scale: Tensor, spherical: bool) -> Tensor:
    """int64 [B]: sums over the rows of ``rint(lane8(y_i^2) scale_b)``; ``origin`` float64 [B, d]."""
    return OP(impl, "square_sums", x, cu_rows, origin, scale, spherical)


def distances(impl: str, x: Tensor, origin: Tensor, centroids: Tensor, limit: Tensor | None, spherical: bool) -> Tensor:
    """float64 [N, K] of one problem: ``lane8((y_i - c_j)^2)``, c = centroids - origin, or ``1 - lane8(y_i C_j)``.

    ``centroids`` are float64 [K, d] here, ``origin`` float64 [d]. With ``limit`` float64 [N] the lesser of limit_i and
    the distance, for which most distances need no exact sum.
    """
    return OP(impl, "distances", x, origin, centroids, limit, spherical)


def assign(
    impl: str,
    x: Tensor,
    cu_rows: Tensor,
    cu_clusters: Tensor,
    centroids: Tensor,
    origin: Tensor,
    m: int,
    spherical: bool,
    fast: bool,
) -> tuple[Tensor, Tensor]:
    """The m centroids of lowest score, best first, ties to the lower id: ids int64 [N, m], distances float64 [N, m].

    m is at most the least K. ``fast`` with m = 1 may take the nearest by an approximate score.
    """
    return OP(impl, "assign", x, cu_rows, cu_clusters, centroids, origin, m, spherical, fast)


def accumulate(
    impl: str, x: Tensor, centroids: Tensor, weights: Tensor | None, frame: Frame, spherical: bool, fast: bool
) -> Assigned:
    """Rows of (a part of) one problem labelled with ``centroids`` [K, d], and their sums; ``frame`` has B = 1."""
    return OP(impl, "accumulate", x, centroids, weights, frame, spherical, fast)


def plus_plus(
    impl: str,
    x: Tensor,
    cu_rows: Tensor,
    cu_clusters: Tensor,
    weights: Tensor | None,
    frame: Frame,
    draws: Tensor,
    cu_draws: Tensor,
    spherical: bool,
) -> Tensor:
    """Greedy k-means++: int64 [sum K], which rows to start from, counted in each problem; see ``plus_plus.py``.

    Problem b has the ``draws`` (int64 on the CPU, 0 to 2^63 - 1) from ``cu_draws[b]`` on: one, and then as many for
    each further cluster as there are candidates for it, 1 + (K - 1) c in all.
    """
    return OP(impl, "plus_plus", x, cu_rows, cu_clusters, weights, frame, draws, cu_draws, spherical)


def fit(
    impl: str,
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
    """Lloyd's iteration from ``centroids`` (unit rows where ``spherical``), all problems; see ``lloyd.py``.

    ``threshold`` float64 [B]: an iteration is the last one where no label changed, where ``shift(new, old) <=
    threshold``, or, with ``by_inertia``, where ``float64(before - after) <= threshold float64(before)`` for the integer
    inertias. ``max_iter`` may be 0.
    """
    return OP(
        impl, "fit", x, cu_rows, cu_clusters, centroids, weights, frame, threshold, by_inertia, max_iter, empty,
        spherical, fast,
    )  # fmt: skip


def fit_known(
    impl: str,
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
    known: Known,
) -> tuple[Fit, Known, Tensor]:
    """What ``fit`` gives, the same bits, from rows of which something is ``known`` for ``centroids``; CPU.

    Also what is known of them and the last centroids, and int64 [B]: how many products of a row with a centroid, or
    distances between the two, were computed at any precision.
    """
    return OP(
        impl, "fit_known", x, cu_rows, cu_clusters, centroids, weights, frame, threshold, by_inertia, max_iter, empty,
        spherical, fast, known,
    )  # fmt: skip
