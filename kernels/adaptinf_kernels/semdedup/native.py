"""De-duplication by the native module (``csrc/semdedup/``) on the CPU; ``native_cuda.py`` has CUDA."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from adaptinf_kernels.semdedup import native_cuda
from torch import Tensor

CPU_LEVEL = ""
"""The instruction set that the native module uses: "portable", "avx2", "avx512", or "" for the best. Tests set it."""

BRAIN = True
"""Whether the screen may be AVX512-BF16's. Tests unset it."""


def not_supported_reasons(
    x: Tensor, rows: Tensor, bounds: Tensor, ranks: Tensor, keep: str, thresholds: list[float], budgets: Tensor | None
) -> list[str]:
    """CPU tensors of at most 2^20 columns; what ``native_cuda`` takes on CUDA devices."""
    if x.device.type == "cuda":
        return native_cuda.not_supported_reasons(x, rows, bounds, ranks, keep, thresholds, budgets)
    reasons = _native.reasons_against(x.device)
    if x.shape[1] > 1 << 20:
        reasons.append(f"it takes at most {1 << 20} columns, not {x.shape[1]}")
    return reasons


def run(
    x: Tensor, rows: Tensor, bounds: Tensor, ranks: Tensor, keep: str, thresholds: list[float], budgets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(kept bool [E, N], before int64 [E, N], similarity float64 [E, N]) by place; see ``ops.py``."""
    if x.device.type == "cuda":
        return native_cuda.run(x, rows, bounds, ranks, keep, thresholds, budgets)
    x = _native.rows_contiguous(x.detach())
    shape = max(1, len(thresholds)), len(rows)
    found = (
        torch.empty(shape, dtype=torch.int8),
        torch.empty(shape, dtype=torch.int64),
        torch.empty(shape, dtype=torch.float64),
    )
    problem = tuple(map(_native.view, (x, rows, bounds)))
    out = tuple(map(_native.view, found))
    module = _native.native()
    if budgets is None:
        module.semdedup(problem, keep, thresholds, out, _native.threads(), CPU_LEVEL, BRAIN)
    elif budgets.dim():
        module.semdedup_farthest(problem, _native.view(budgets), out, _native.threads(), CPU_LEVEL)
    else:
        ranks_view = _native.view(ranks)
        module.semdedup_farthest_of_all(problem, int(budgets), ranks_view, out, _native.threads(), CPU_LEVEL)
    return found[0].bool(), found[1], found[2]
