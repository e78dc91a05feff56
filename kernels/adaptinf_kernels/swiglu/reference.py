"""``silu(gate) * up`` and its gradients by torch's operators."""

from __future__ import annotations

import torch
from torch import Tensor


def not_supported_reasons(gate: Tensor, up: Tensor, grad: Tensor | None) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(gate: Tensor, up: Tensor, grad: Tensor | None) -> tuple[Tensor, ...]:
    """(output,); with ``grad``, the output's, the gradients of gate and up."""
    wide = torch.float64 if gate.dtype == torch.float64 else torch.float32
    x, y = gate.to(wide), up.to(wide)
    sigmoid = x.sigmoid()
    if grad is None:
        found = [x * sigmoid * y]
    else:
        found = [grad.to(wide) * y * sigmoid * (1 + x * (1 - sigmoid)), grad.to(wide) * x * sigmoid]
    return tuple(one.to(gate.dtype).contiguous() for one in found)
