"""Fits for the CUDA kernels of k-means that run on the CPU (cuda_shim), and how they are handed over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from adaptinf_kernels._native import DTYPES
from adaptinf_kernels.kmeans.arithmetic import Frame, make_frame, origin_of, reach_of, scale, unit
from adaptinf_kernels.kmeans.ops import (
    Assigned,
    Fit,
    accumulate,
    assign,
    column_sums,
    distances,
    extremes,
    fit,
    square_sums,
)
from torch import Tensor

EMPTY = {"keep": 0, "farthest": 1, "split": 2}


@dataclass(frozen=True)
class Case:
    """A fit; ``x`` may have any row stride, ``cu_rows`` and ``cu_clusters`` bound the problems."""

    x: Tensor
    cu_rows: Tensor
    cu_clusters: Tensor
    centroids: Tensor
    frame: Frame
    threshold: Tensor
    weights: Tensor | None = None
    by_inertia: bool = False
    max_iter: int = 6
    empty: str = "farthest"
    spherical: bool = False
    fast: bool = False
    alone: bool = False
    m: int = 1

    def reference(self) -> Fit:
        return fit(
            "reference", self.x, self.cu_rows, self.cu_clusters, self.centroids, self.weights, self.frame,
            self.threshold, self.by_inertia, self.max_iter, self.empty, self.spherical, self.fast,
        )  # fmt: skip

    def accumulated(self, centroids: Tensor, problem: int) -> Assigned:
        """The rows of one problem against fixed centroids, by the reference."""
        part = slice(int(self.cu_rows[problem]), int(self.cu_rows[problem + 1]))
        mine = centroids[int(self.cu_clusters[problem]) : int(self.cu_clusters[problem + 1])]
        weights = None if self.weights is None else self.weights[part]
        return accumulate("reference", self.x[part], mine, weights, self.frame.of(problem), self.spherical, self.fast)

    def write(self, path: Path) -> None:
        """What read_fit of kmeans_input.h reads."""
        numbers = [
            DTYPES[str(self.x.dtype)], len(self.x), self.x.shape[1], self.x.stride(0), len(self.cu_rows) - 1,
            len(self.centroids), self.max_iter, EMPTY[self.empty], self.by_inertia, self.spherical, self.fast,
            self.alone, self.weights is not None, self.m,
        ]  # fmt: skip
        elements = 0 if not len(self.x) else (len(self.x) - 1) * self.x.stride(0) + self.x.shape[1]
        storage = torch.as_strided(self.x, (elements,), (1,))
        parts = [
            torch.tensor(numbers + [0] * (16 - len(numbers))),
            storage.view(torch.int32 if self.x.dtype == torch.float32 else torch.int16),
            torch.empty(0) if self.weights is None else self.weights,
            self.cu_rows,
            self.cu_clusters,
            *(part.double() for part in self.frame),
            self.threshold,
            self.centroids,
        ]
        path.write_bytes(b"".join(part.contiguous().numpy().tobytes() for part in parts))

    def read(self, path: Path) -> tuple[Fit, Tensor, Tensor]:
        """(fit, distances, sums) of what the driver wrote."""
        n, problems, clusters = len(self.x), len(self.cu_rows) - 1, len(self.centroids)
        whole, real, single = np.int64, np.float64, np.float32
        layout = [
            (whole, (n,)), (single, tuple(self.centroids.shape)), (whole, (clusters,)), (whole, (clusters,)),
            (real, (clusters,)), (whole, (problems,)), (whole, (problems,)), (whole, (problems,)), (real, (n,)),
            (whole, tuple(self.centroids.shape)),
        ]  # fmt: skip
        found = arrays(path, layout)
        return Fit(*found[:8]), found[8], found[9]

    def rows_expected(self) -> list[Tensor]:
        """What kmeans_rows_driver.cpp writes, by the reference."""
        nearest = assign(
            "reference", self.x, self.cu_rows, self.cu_clusters, self.centroids, self.frame.origin, self.m,
            self.spherical, self.fast,
        )  # fmt: skip
        ranges = extremes("reference", self.x, self.cu_rows)
        sums = column_sums("reference", self.x, self.cu_rows, self.frame.sum_scale)
        squares = square_sums(
            "reference", self.x, self.cu_rows, self.frame.origin, self.frame.inertia_scale, self.spherical
        )
        found = [*nearest, *ranges, sums, squares]
        if len(self.cu_rows) == 2:
            origin, centroids = self.frame.origin[0], self.centroids.double()
            for limit in (None, nearest[1][:, 0]):
                found.append(distances("reference", self.x, origin, centroids, limit, self.spherical))
        return found

    def rows_read(self, path: Path) -> list[Tensor]:
        """What kmeans_rows_driver.cpp wrote."""
        n, problems, clusters, cells = len(self.x), len(self.cu_rows) - 1, len(self.centroids), self.frame.origin.shape
        layout = [
            (np.int64, (n, self.m)), (np.float64, (n, self.m)), (np.float64, cells), (np.float64, cells),
            (np.int64, (problems,)), (np.int64, cells), (np.int64, (problems,)),
        ]  # fmt: skip
        return arrays(path, layout + [(np.float64, (n, clusters))] * (2 if problems == 1 else 0))


def arrays(path: Path, layout: list[tuple[type, tuple[int, ...]]]) -> list[Tensor]:
    """The arrays that a driver wrote one after the other."""
    content, found = path.read_bytes(), []
    for dtype, shape in layout:
        count = int(np.prod(shape))
        found.append(torch.from_numpy(np.frombuffer(content, dtype, count).copy().reshape(shape)))
        content = content[count * np.dtype(dtype).itemsize :]
    assert not content
    return found


def case(
    x: Tensor,
    clusters: int | list[int],
    *,
    rows: list[int] | None = None,
    weights: Tensor | None = None,
    spherical: bool = False,
    tol: float = 0.0,
    start: Tensor | None = None,
    **options: object,
) -> Case:
    """A fit of ``x`` cut into problems of so many ``rows``, from the first rows of each (or ``start``)."""
    sizes = [len(x)] if rows is None else rows
    each = [clusters] * len(sizes) if isinstance(clusters, int) else clusters
    cu_rows, cu_clusters = (torch.tensor([0, *np.cumsum(counts)], dtype=torch.int64) for counts in (sizes, each))
    counts = torch.tensor(sizes)
    low, high, _ = extremes("reference", x, cu_rows)
    largest = torch.maximum(high, -low).amax(1).nan_to_num(nan=0, neginf=0)
    power = scale(counts, largest)
    if spherical:
        origin, reach = torch.zeros(len(sizes), x.shape[1], dtype=torch.float64), torch.ones(len(sizes)).double()
    else:
        origin = origin_of(column_sums("reference", x, cu_rows, power), power, counts.clamp_min(1))
        reach = reach_of(low, high, origin).nan_to_num(nan=0, neginf=0)
    heaviest = torch.ones(len(sizes), dtype=torch.float64)
    if weights is not None:
        heaviest = torch.stack([part.max() for part in weights.split(sizes)])
    if start is None:
        start = torch.cat([part[:k].double() for part, k in zip(x.split(sizes), each, strict=True)])
        start = (unit(start) if spherical else start).float()
    parts = zip(start.split(each), origin, strict=True)
    away = [max((c.double() - o).abs().flatten().tolist(), default=0.0) for c, o in parts]
    frame = make_frame(origin, reach, counts, heaviest, spherical=spherical, away=torch.tensor(away).double())
    return Case(
        x, cu_rows, cu_clusters, start, frame, torch.full((len(sizes),), tol, dtype=torch.float64), weights,
        spherical=spherical, **options,
    )  # fmt: skip
