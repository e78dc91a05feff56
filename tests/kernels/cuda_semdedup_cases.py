"""De-duplications for the CUDA kernels that run on the CPU (cuda_shim), and how they are handed over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from adaptinf_kernels._native import DTYPES
from adaptinf_kernels.semdedup import reference
from torch import Tensor

KEEP = {"reference": 0, "greedy": 1, "components": 2}


@dataclass(frozen=True)
class Case:
    """Rows ``rows`` of ``x``, which may have any row stride, in places; ``bounds`` are the clusters'."""

    x: Tensor
    rows: Tensor
    bounds: Tensor
    keep: str = "reference"
    thresholds: tuple[float, ...] = (0.95,)
    alone_rows: int = 2048
    slice_tiles: int = 32

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        ranks = torch.arange(len(self.rows))
        return reference.run(self.x, self.rows, self.bounds, ranks, self.keep, list(self.thresholds), None)

    def write(self, path: Path) -> None:
        """What semdedup_driver.cpp reads."""
        x = self.x
        numbers = [
            DTYPES[str(x.dtype)], len(x), x.shape[1], x.stride(0), len(self.rows), len(self.bounds) - 1,
            len(self.thresholds), KEEP[self.keep], self.alone_rows, self.slice_tiles,
        ]  # fmt: skip
        elements = 0 if not len(x) else (len(x) - 1) * x.stride(0) + x.shape[1]
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        parts = [
            torch.tensor(numbers),
            torch.as_strided(x, (elements,), (1,)).view(bits),
            self.rows,
            self.bounds,
            torch.tensor(self.thresholds, dtype=torch.float64),
        ]
        path.write_bytes(b"".join(part.contiguous().numpy().tobytes() for part in parts))

    def read(self, path: Path) -> tuple[Tensor, Tensor, Tensor]:
        """(kept, before, similarity) of what the driver wrote."""
        shape = len(self.thresholds), len(self.rows)
        content, found = path.read_bytes(), []
        for dtype in (np.int8, np.int64, np.float64):
            size = shape[0] * shape[1] * np.dtype(dtype).itemsize
            found.append(torch.from_numpy(np.frombuffer(content[:size], dtype).copy().reshape(shape)))
            content = content[size:]
        assert not content
        return found[0].bool(), found[1], found[2]


def case(x: Tensor, clusters: int | list[int] = 1, **options: object) -> Case:
    """``x`` cut into so many clusters of about one size, or into clusters of these sizes, in a shuffled order."""
    sizes = clusters
    if isinstance(sizes, int):
        sizes = [len(x) * (c + 1) // sizes - len(x) * c // sizes for c in range(sizes)]
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))
    return Case(x, rows, torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int64), **options)
