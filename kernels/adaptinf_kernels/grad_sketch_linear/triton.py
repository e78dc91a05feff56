"""Triton: sjlt by ``triton_kernels.py``, rademacher by ``triton_dense.py`` and xorts by ``triton_xorts.py``."""

from __future__ import annotations

import torch
from adaptinf_kernels._triton import reasons_against
from adaptinf_kernels.sketch.definition import Sketch, philox_key
from adaptinf_kernels.sketch.preconditioner import State
from adaptinf_kernels.sketch.triton_limits import linear_limits
from torch import Tensor


def not_supported_reasons(
    x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, name: str, state: State, norms: bool
) -> list[str]:
    """Kinds, sizes, device and dtypes."""
    reasons = reasons_against(x, grad_out, state[1], state[2])
    return [*reasons, *linear_limits(sketch)]


def run(
    x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, name: str, state: State, norms: bool
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]), both float32."""
    from adaptinf_kernels.grad_sketch_linear import triton_dense, triton_xorts
    from adaptinf_kernels.grad_sketch_linear import triton_kernels as kernels

    if sketch.kind == "rademacher":
        return triton_dense.linear_dense(x, grad_out, cu_seqlens, sketch, name, state, norms)
    if sketch.kind == "xorts":
        squares = kernels.squared_norms(x, grad_out, cu_seqlens) if norms else x.new_empty(0, dtype=torch.float32)
        return triton_xorts.linear_xorts(x, grad_out, cu_seqlens, sketch, name), squares
    return kernels.linear_sjlt(x, grad_out, cu_seqlens, sketch, philox_key(sketch.seed, name), state, norms)
