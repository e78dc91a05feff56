"""A clustering, and what can be done with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from adaptinf_kernels._arrays import as_tensor, like
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.kmeans import ops
from adaptinf_kernels.kmeans.arithmetic import largest_of_each, square_root, unit
from adaptinf_kernels.kmeans.layout import Layout, lay_out, state_dtype
from adaptinf_kernels.kmeans.memory import Memory
from adaptinf_kernels.kmeans.options import Metric, Precision, choose
from adaptinf_kernels.kmeans.problem import check_weights, step_frame
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)


@dataclass(frozen=True, eq=False)
class KMeansResult(Generic[Array]):
    """A clustering; everything is of one state, that of the centroids.

    A batch has a first dimension B: of ``labels`` where the rows came as [B, N, d], of what is per cluster where k is
    one number (otherwise the problems' clusters follow one another, ``cu_clusters`` says where), and ``inertia``,
    ``n_iter`` and ``changed`` are int64 or float64 [B].

    Attributes:
        labels: int64 [N], the nearest centroid, ties to the lowest id; -1 for a row that is left out.
        centroids: float32 [K, d], float64 for float64 data.
        inertia: sum over the rows of weight times squared Euclidean distance, or times 1 - cosine.
        n_iter: iterations run.
        sizes: int64 [K], rows per cluster.
        weights: float64 [K], the sum of their weights; after ``partial_fit`` of all rows seen, less what decayed.
        radii: float64 [K], the largest Euclidean distance, or 1 - cosine, of a cluster's rows; 0 without rows.
        changed: rows whose label the last iteration changed.
        origin: float64 [d], what distances are computed relative to: the mean of the rows, zeros for the cosine.
        metric: "euclidean" or "cosine".
        cu_clusters: int64 [B + 1] where a batch's k differ, otherwise None.
        memory: of a fit with ``remember``, what makes a fit that starts from this one cheap; otherwise None.
    """

    labels: Array
    centroids: Array
    inertia: Any
    n_iter: Any
    sizes: Array
    weights: Array
    radii: Array
    changed: Any
    origin: Array
    metric: Metric
    cu_clusters: Array | None = None
    memory: Memory | None = None

    def predict(
        self, x: Array, *, cu_rows: Array | None = None, precision: Precision = "exact", impl: Impl = "auto"
    ) -> Array:
        """Nearest centroid of each row, int64 [N], or [B, N]; rows are laid out as those of the fit.

        Equal to ``labels`` on the rows of the fit. Raises ValueError and TypeError as ``kmeans`` does.
        """
        choose("precision", precision, Precision)
        ids, _ = self._nearest(x, cu_rows, 1, precision == "fast", impl)
        return like(x, ids[..., 0])

    def top_m(self, x: Array, m: int, *, cu_rows: Array | None = None, impl: Impl = "auto") -> tuple[Array, Array]:
        """The m nearest centroids of each row, nearest first, ties to the lower id: ids int64 [N, m] and distances
        float64 [N, m] (Euclidean, or 1 - cosine). m is at most the least K.
        """
        ids, distances = self._nearest(x, cu_rows, m, False, impl)
        return like(x, ids), like(x, distances if self.metric == "cosine" else square_root(distances))

    def transform(self, x: Array, *, impl: Impl = "auto") -> Array:
        """Distances of rows [N, d] from all centroids of a single problem, float64 [N, K]: Euclidean, or 1 - cosine."""
        if self._problems() is not None:
            raise ValueError("transform is for one problem; take top_m with m=K for a batch")
        matrix, layout, centroids, origin = self._prepare(x, None)
        found = ops.distances(impl, matrix, origin[0], centroids.double(), None, self.metric == "cosine")
        return like(x, layout.of_rows(found if self.metric == "cosine" else square_root(found)))

    def partial_fit(
        self, x: Array, *, sample_weight: Array | None = None, decay: float = 1.0, impl: Impl = "auto"
    ) -> KMeansResult[Array]:
        """The clustering after a step to further rows [N, d] (a single problem); N may be less than K.

        Rows are labelled with the present centroids, then ``c_j = (n_j c_j + sum_i w_i x_i) / (n_j + sum_i w_i)``, the
        sums over the cluster's rows, ``n_j = decay weights_j``; unit rows again for the cosine. A cluster that gets no
        weight keeps its centroid. The result has the new weights, and of the rows of this step the labels, sizes, radii
        and inertia by the new centroids; ``changed`` counts those whose label the step changed.

        Args:
            x: [N, d], of the dtype of the fit's rows or another with the same dtype of centroids.
            sample_weight: [N], not negative.
            decay: 0 to 1, what the weights so far count: 1 for the mean of all rows seen, less for data that drift.
            impl: as in ``kmeans``.

        Raises ValueError and TypeError as ``kmeans`` does. Source: Sculley 2010, with weights that decay.
        """
        if self._problems() is not None:
            raise ValueError("partial_fit is for one problem, not a batch")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay} must be from 0 to 1")
        matrix, _, centroids, origin = self._prepare(x, None)
        spherical = self.metric == "cosine"
        weights = None if sample_weight is None else check_weights(sample_weight, len(matrix), matrix.device)
        frame = step_frame(matrix, centroids, origin, weights, spherical, impl)
        before = ops.accumulate(impl, matrix, centroids, weights, frame, spherical, False)
        seen = decay * as_tensor("weights", self.weights).to(matrix.device)
        gained = before.weights.double() / frame.weight_scale
        total = (centroids.double() - origin) * seen[:, None] + before.sums.double() / frame.sum_scale
        moved = total / torch.where(gained > 0, seen + gained, 1.0)[:, None]
        moved = unit(moved) if spherical else moved + origin
        still = (gained <= 0) | (total == 0).all(1) if spherical else gained <= 0
        updated = torch.where(still[:, None], centroids, moved.to(centroids.dtype))
        after = ops.accumulate(impl, matrix, updated, weights, frame, spherical, False)
        radii = largest_of_each(after.labels, after.distances, len(updated))
        return replace(
            self,
            labels=like(x, after.labels),
            centroids=like(x, updated),
            inertia=float(after.inertia) / float(frame.inertia_scale),
            n_iter=1,
            sizes=like(x, after.sizes),
            weights=like(x, seen + gained),
            radii=like(x, radii if spherical else square_root(radii)),
            changed=int((before.labels != after.labels).sum()),
            memory=None,
        )

    def _problems(self) -> int | None:
        """B, None for a single problem."""
        return None if self.origin.ndim == 1 else len(self.origin)

    def _nearest(self, x: Array, cu_rows: Array | None, m: int, fast: bool, impl: Impl) -> tuple[Tensor, Tensor]:
        matrix, layout, centroids, origin = self._prepare(x, cu_rows)
        least = int(layout.cu_clusters.diff().min()) if layout.problems else m
        if not 1 <= m <= least:
            raise ValueError(f"m={m} must be from 1 to the least number of clusters, {least}")
        ids, distances = ops.assign(
            impl, matrix, layout.cu_rows, layout.cu_clusters, centroids, origin, m, self.metric == "cosine", fast
        )
        return layout.of_rows(ids), layout.of_rows(distances)

    def _prepare(self, x: Array, cu_rows: Array | None) -> tuple[Tensor, Layout, Tensor, Tensor]:
        """Rows [N, d], how they lie, centroids [sum K, d] and origins [B, d] on their device."""
        tensor = as_tensor("x", x)
        centroids, origin = as_tensor("centroids", self.centroids), as_tensor("origin", self.origin)
        if self.cu_clusters is not None:
            counts: Any = as_tensor("cu_clusters", self.cu_clusters).diff().tolist()
        else:
            counts = centroids.shape[-2]
        matrix, layout = lay_out(tensor, counts, cu_rows)
        if layout.single != (self._problems() is None) or layout.problems != (self._problems() or layout.problems):
            raise ValueError(
                f"x {list(tensor.shape)} is not laid out as the {self._problems() or 1} problems of the fit"
            )
        if matrix.shape[1] != centroids.shape[-1]:
            raise ValueError(f"x has {matrix.shape[1]} columns, the centroids have {centroids.shape[-1]}")
        if state_dtype(matrix.dtype) != centroids.dtype:
            raise TypeError(f"rows of {matrix.dtype} do not go with centroids of {centroids.dtype}; convert the rows")
        bad = ops.extremes("auto", matrix, layout.cu_rows).bad
        if (bad >= 0).any():
            raise ValueError(f"x has NaN or infinity, the first is row {int(bad[bad >= 0][0])}")
        flat = centroids.reshape(-1, centroids.shape[-1]).to(matrix.device)
        return matrix, layout, flat, origin.reshape(-1, origin.shape[-1]).to(matrix.device)
