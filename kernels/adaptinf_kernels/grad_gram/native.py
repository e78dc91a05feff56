"""Inner products of per-sample gradients by the native module (``csrc/grad_gram/``), on the CPU."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from adaptinf_kernels.sketch import native as sketch_native
from torch import Tensor


def not_supported_reasons(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    other_x: Tensor | None,
    other_grad_out: Tensor | None,
    other_cu_seqlens: Tensor | None,
) -> list[str]:
    """CPU tensors of at most 32 bits."""
    return sketch_native.tensor_reasons_against(x, grad_out)


def run(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    other_x: Tensor | None,
    other_grad_out: Tensor | None,
    other_cu_seqlens: Tensor | None,
) -> Tensor:
    """[B, C] in float32."""
    rows = [_native.rows_contiguous(tensor.detach()) for tensor in (x, grad_out)]
    bounds = other_bounds = cu_seqlens.tolist()
    columns = None
    if other_x is not None and other_grad_out is not None and other_cu_seqlens is not None:
        columns = [_native.rows_contiguous(tensor.detach()) for tensor in (other_x, other_grad_out)]
        other_bounds = other_cu_seqlens.tolist()
    out = torch.empty(len(bounds) - 1, len(other_bounds) - 1)
    _native.native().grad_gram(
        (*map(_native.view, rows), bounds),
        None if columns is None else (*map(_native.view, columns), other_bounds),
        _native.view(out),
        _native.threads(),
        sketch_native.CPU_LEVEL,
    )
    return out
