"""Rotary embedding by the native module (``csrc/rowwise/``), on the CPU."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from torch import Tensor

CPU_LEVEL = ""
"""The instruction set that the native module uses: "portable", "avx2", "avx512", or "" for the best. Tests set it."""


def not_supported_reasons(x: Tensor, cos: Tensor, sin: Tensor, backward: bool) -> list[str]:
    """Float32 on the CPU."""
    return _native.reasons_against_float32(x)


def run(x: Tensor, cos: Tensor, sin: Tensor, backward: bool) -> Tensor:
    """The output; with ``backward``, for the output's gradient in place of ``x``, that of the input."""
    batch, heads, tokens, width = x.shape
    tables = [_native.rows_contiguous(table.detach()).expand(batch, tokens, width) for table in (cos, sin)]
    rows = _native.rows_contiguous(x.detach())
    out = torch.empty(batch, tokens, heads, width)
    _native.native().rotary(
        *map(_native.view, (rows, *tables, out)), backward, _native.threads(), CPU_LEVEL
    )  # fmt: skip
    return out.transpose(1, 2)
