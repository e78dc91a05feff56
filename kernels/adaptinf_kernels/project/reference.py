"""Sketches of given gradients, one sample at a time."""

from __future__ import annotations

import torch
from adaptinf_kernels.sketch.columns import Columns, accumulator, blocks, finish, working_dtype
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.tables import kron_factors
from torch import Tensor


def not_supported_reasons(gradients: Tensor, shape: tuple[int, int], sketch: Sketch, name: str) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(gradients: Tensor, shape: tuple[int, int], sketch: Sketch, name: str) -> Tensor:
    """[B, D] -> float32 [B, k] with entries of +-1."""
    dtype, device = working_dtype(gradients), gradients.device
    total = accumulator(sketch, len(gradients), dtype, device)
    if sketch.kind == "kron":
        p_out, p_in = (factor.to(dtype) for factor in kron_factors(sketch, name, shape, device))
        for row, gradient in zip(total, gradients, strict=True):
            weight = _copy(gradient, dtype).view(shape)
            row.copy_((p_out @ weight @ p_in.T).flatten())
    else:
        for rows, columns in blocks(sketch, shape):
            block = Columns(sketch, name, shape, rows, columns, total)
            first = rows.start * shape[1] + columns.start
            for sample, gradient in enumerate(gradients):
                block.add(sample, _copy(gradient[first : first + len(rows) * len(columns)], dtype))
    return finish(sketch, total).float()


def _copy(values: Tensor, dtype: torch.dtype) -> Tensor:
    """A fresh, aligned copy: the bits of a matrix product may depend on where its operands begin."""
    return values.to(dtype, copy=True, memory_format=torch.contiguous_format)
