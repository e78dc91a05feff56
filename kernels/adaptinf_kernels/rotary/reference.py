"""Rotary embedding by torch's operators."""

from __future__ import annotations

import torch
from torch import Tensor


def not_supported_reasons(x: Tensor, cos: Tensor, sin: Tensor, backward: bool) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(x: Tensor, cos: Tensor, sin: Tensor, backward: bool) -> Tensor:
    """The output; with ``backward``, for the output's gradient in place of ``x``, that of the input."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    y, c, s = x.to(wide), cos.to(wide)[:, None], sin.to(wide)[:, None]
    half = x.shape[3] // 2
    if backward:
        y, turned = y * c, y * s
        found = y + torch.cat([turned[..., half:], -turned[..., :half]], -1)
    else:
        found = y * c + torch.cat([-y[..., half:], y[..., :half]], -1) * s
    return found.to(x.dtype).transpose(1, 2).contiguous().transpose(1, 2)
