"""The norm by the native module (``csrc/rowwise/``), on the CPU."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from torch import Tensor

CPU_LEVEL = ""
"""The instruction set that the native module uses: "portable", "avx2", "avx512", or "" for the best. Tests set it."""


def not_supported_reasons(x: Tensor, weight: Tensor, epsilon: float, grad: Tensor | None) -> list[str]:
    """Float32 on the CPU."""
    return _native.reasons_against_float32(x)


def run(x: Tensor, weight: Tensor, epsilon: float, grad: Tensor | None) -> Tensor:
    """The output; with ``grad``, the output's, the gradient of x."""
    rows, scale, found = _native.as_rows(x), weight.detach().contiguous(), torch.empty(x.shape)
    inputs = _native.view(rows), _native.view(scale), epsilon
    output = _native.view(_native.as_rows(found))
    if grad is None:
        _native.native().rms_norm(*inputs, output, _native.threads(), CPU_LEVEL)
    else:
        given = _native.as_rows(grad)
        _native.native().rms_norm_backward(_native.view(given), *inputs, output, _native.threads(), CPU_LEVEL)
    return found
