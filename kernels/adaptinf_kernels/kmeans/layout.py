"""One problem or many: how rows and clusters are laid out, in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from adaptinf_kernels._arrays import as_tensor
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Layout:
    """Which rows and clusters each problem has.

    Attributes:
        cu_rows, cu_clusters: int64 [B + 1] on the CPU.
        single: there is one problem and no dimension for it.
        rows_each: N where the rows came as [B, N, d].
        clusters_each: K where one number was given for all problems.
    """

    cu_rows: Tensor
    cu_clusters: Tensor
    single: bool
    rows_each: int | None
    clusters_each: int | None

    @property
    def problems(self) -> int:
        return len(self.cu_rows) - 1

    def name(self, problem: int) -> str:
        """For messages."""
        return "" if self.single else f" in problem {problem}"

    def of_rows(self, values: Tensor) -> Tensor:
        """[N, ...] as [B, N / B, ...] where the rows came so."""
        if self.rows_each is None:
            return values
        return values.reshape(self.problems, self.rows_each, *values.shape[1:])

    def of_clusters(self, values: Tensor) -> Tensor:
        """[sum K, ...] as [B, K, ...] where a batch's problems have as many clusters."""
        if self.single or self.clusters_each is None:
            return values
        return values.reshape(self.problems, self.clusters_each, *values.shape[1:])

    def of_problems(self, values: Tensor) -> Any:
        """[B, ...], or its only entry, a number where it is one."""
        if not self.single:
            return values
        return values[0].item() if values.dim() == 1 else values[0]


def single(rows: int, k: int) -> Layout:
    """One problem."""
    return Layout(torch.tensor([0, rows]), torch.tensor([0, k]), single=True, rows_each=None, clusters_each=k)


def check_floating(what: str, x: Tensor) -> None:
    """Raises TypeError where a tensor is not one that k-means takes."""
    if x.dtype not in DTYPES:
        raise TypeError(f"{what} must be floating point (float16, bfloat16, float32, float64), not {x.dtype}")


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """That of centroids, from that of rows."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def lay_out(x: Tensor, k: int | Sequence[int], cu_rows: Any) -> tuple[Tensor, Layout]:
    """The rows as a matrix [N, d], and how the problems lie in it; k is at least 1."""
    if x.dim() not in (2, 3) or (x.dim() == 3 and cu_rows is not None):
        shapes = "[N, d] where cu_rows is given" if cu_rows is not None else "[N, d] or [B, N, d]"
        raise ValueError(f"x must be {shapes}, not {list(x.shape)}")
    check_floating("x", x)
    if x.shape[-1] == 0:
        raise ValueError(f"x has no columns: {list(x.shape)}")
    if x.dim() == 3:
        bounds = torch.arange(len(x) + 1) * x.shape[1]
    elif cu_rows is None:
        bounds = torch.tensor([0, len(x)])
    else:
        bounds = _bounds(cu_rows, len(x))
    problems = len(bounds) - 1
    counts = [int(k)] * problems if isinstance(k, (int, np.integer)) else [int(one) for one in k]
    if len(counts) != problems:
        raise ValueError(f"k has {len(counts)} numbers for {problems} problems")
    layout = Layout(
        cu_rows=bounds,
        cu_clusters=torch.tensor([0, *counts]).cumsum(0),
        single=x.dim() == 2 and cu_rows is None,
        rows_each=x.shape[1] if x.dim() == 3 else None,
        clusters_each=int(k) if isinstance(k, (int, np.integer)) else None,
    )
    return x.flatten(0, 1) if x.dim() == 3 else x, layout


def check_counts(layout: Layout, rows: Tensor, what: str = "") -> None:
    """Every problem has from one to as many clusters as ``rows`` [B]; ``what`` says which rows were counted."""
    counts, rows = layout.cu_clusters.diff(), rows.cpu()
    wrong = ((counts < 1) | (counts > rows)).nonzero()
    if len(wrong):
        problem = int(wrong[0])
        k, n = int(counts[problem]), int(rows[problem])
        raise ValueError(f"k={k} clusters of N={n} {what}rows{layout.name(problem)}: k must be from 1 to N")


def _bounds(cu_rows: Any, rows: int) -> Tensor:
    bounds = as_tensor("cu_rows", cu_rows)
    if bounds.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_rows must be int32 or int64, not {bounds.dtype}")
    if bounds.dim() != 1 or not len(bounds):
        raise ValueError(f"cu_rows must be [B + 1], not {list(bounds.shape)}")
    bounds = bounds.to("cpu", torch.int64)
    if bounds[0] != 0 or bounds[-1] != rows:
        raise ValueError(f"cu_rows must run from 0 to N={rows}, not from {int(bounds[0])} to {int(bounds[-1])}")
    if (bounds.diff() < 0).any():
        raise ValueError(f"cu_rows must not fall, but does after problem {int((bounds.diff() < 0).nonzero()[0]) - 1}")
    return bounds
