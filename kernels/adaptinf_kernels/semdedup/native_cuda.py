"""De-duplication by the native module on CUDA devices (``csrc/semdedup/dedup_cuda.h``)."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def not_supported_reasons(
    x: Tensor, rows: Tensor, bounds: Tensor, ranks: Tensor, keep: str, thresholds: list[float], budgets: Tensor | None
) -> list[str]:
    """At most 2^30 rows and 2^20 columns, and no budgets with greedy."""
    reasons = _native.reasons_against(x.device)
    if budgets is not None:
        reasons.append("it has no CUDA kernel for farthest first, which keep='greedy' with a budget is")
    if x.dtype not in _DTYPES:
        reasons.append(f"x is {x.dtype}; it takes float32, float16, bfloat16 and float64")
    if x.shape[1] > 1 << 20:
        reasons.append(f"it takes at most {1 << 20} columns, not {x.shape[1]}")
    if len(rows) > 1 << 30:
        reasons.append(f"it takes at most {1 << 30} rows, not {len(rows)}")
    return reasons


def run(
    x: Tensor, rows: Tensor, bounds: Tensor, ranks: Tensor, keep: str, thresholds: list[float], budgets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(kept bool [E, N], before int64 [E, N], similarity float64 [E, N]) by place; see ``ops.py``."""
    x, rows = _native.rows_contiguous(x.detach()), rows.contiguous()
    shape = len(thresholds), len(rows)
    found = tuple(
        torch.empty(shape, dtype=dtype, device=x.device) for dtype in (torch.int8, torch.int64, torch.float64)
    )
    module = _native.native()
    size = module.semdedup_cuda_workspace(len(rows), x.shape[1], len(bounds) - 1, len(thresholds), keep)
    workspace = _native.workspace(size, x.device)
    module.semdedup_cuda(
        _native.view(x),
        _native.view(rows),
        bounds.tolist(),
        keep,
        thresholds,
        tuple(map(_native.view, found)),
        _native.view(workspace),
        _native.stream(x.device),
    )
    return found[0].bool(), found[1], found[2]
