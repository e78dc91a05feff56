"""The gate by the native module (``csrc/rowwise/``), on the CPU."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from torch import Tensor

CPU_LEVEL = ""
"""The instruction set that the native module uses: "portable", "avx2", "avx512", or "" for the best. Tests set it."""


def not_supported_reasons(gate: Tensor, up: Tensor, grad: Tensor | None) -> list[str]:
    """Float32 on the CPU."""
    return _native.reasons_against_float32(gate)


def run(gate: Tensor, up: Tensor, grad: Tensor | None) -> tuple[Tensor, ...]:
    """(output,); with ``grad``, the output's, the gradients of gate and up."""
    found = tuple(torch.empty(gate.shape) for _ in range(1 if grad is None else 2))
    given = [_native.as_rows(tensor) for tensor in ((gate, up) if grad is None else (grad, gate, up))]
    outputs = [_native.view(_native.as_rows(one)) for one in found]
    run = _native.native().swiglu if grad is None else _native.native().swiglu_backward
    run(*map(_native.view, given), *outputs, _native.threads(), CPU_LEVEL)
    return found
