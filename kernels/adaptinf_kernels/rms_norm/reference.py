"""``weight * x / sqrt(mean(x^2) + epsilon)`` and its gradient by torch's operators."""

from __future__ import annotations

import torch
from torch import Tensor


def not_supported_reasons(x: Tensor, weight: Tensor, epsilon: float, grad: Tensor | None) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(x: Tensor, weight: Tensor, epsilon: float, grad: Tensor | None) -> Tensor:
    """The output; with ``grad``, the output's, the gradient of x."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows, scale = x.to(wide), weight.to(wide)
    root = (rows.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    if grad is None:
        found = scale * (rows * root)
    else:
        slopes = grad.to(wide) * scale
        found = root * (slopes - rows * root.square() * (slopes * rows).mean(-1, keepdim=True))
    return found.to(x.dtype).contiguous()
