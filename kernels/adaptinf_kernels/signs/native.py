"""Signs by the native module (``csrc/sketch/``), on the CPU and on CUDA devices."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from torch import Tensor


def not_supported_reasons(
    key: int, domain: int, row: int, rows: int, column: int, columns: int, device: torch.device
) -> list[str]:
    """Only what the build lacks."""
    return _native.reasons_against(device)


def run(key: int, domain: int, row: int, rows: int, column: int, columns: int, device: torch.device) -> Tensor:
    out = torch.empty(rows, columns, dtype=torch.int8, device=device)
    _native.native().philox_signs(key, domain, row, column, _native.view(out), _native.stream(device))
    return out
