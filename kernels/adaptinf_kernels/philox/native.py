"""Philox4x32-10 by the native module (``csrc/sketch/philox.h``)."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from torch import Tensor


def not_supported_reasons(key: int, start: int, count: int, word2: int, word3: int, device: torch.device) -> list[str]:
    """Only what the build lacks."""
    return _native.reasons_against(device)


def run(key: int, start: int, count: int, word2: int, word3: int, device: torch.device) -> Tensor:
    out = torch.empty(count, 4, dtype=torch.int64, device=device)
    _native.native().philox_words(key, start, word2, word3, _native.view(out), _native.stream(device))
    return out
