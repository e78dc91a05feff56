"""What a norm layer computes: found by trying it, as transformers has one class of its own for every family."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm_epsilon(module: nn.Module, *, shifted: bool = False) -> float | None:
    """The epsilon of a module that computes ``W * x / sqrt(mean(x^2) + epsilon)`` over the last dimension, or None.

    With ``shifted`` also of one that computes ``(1 + W) * ...``.
    """
    if isinstance(module, nn.RMSNorm) and type(module).forward is nn.RMSNorm.forward:
        if len(module.normalized_shape) != 1:
            return None
        return module.eps if module.eps is not None else torch.finfo(module.weight.dtype).eps
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = module._parameters.get("weight")  # noqa: SLF001
    if not isinstance(epsilon, float) or weight is None or weight.dim() != 1 or len(module._parameters) > 1:  # noqa: SLF001
        return None
    return epsilon if _is_rms_norm(module, weight, epsilon, shifted) else None


@torch.no_grad()
def _is_rms_norm(module: nn.Module, weight: Tensor, epsilon: float, shifted: bool) -> bool:
    """Whether ``module`` computes ``W * normalised(x)``, or ``(1 + W) * ...``: it is tried on some numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, len(weight), generator=generator).to(weight)
    try:
        found = module.forward(x)
    except (TypeError, RuntimeError):
        return False
    if not isinstance(found, Tensor) or found.shape != x.shape:
        return False
    plain, rounding = normalised(module, x, epsilon), 8 * torch.finfo(weight.dtype).eps
    expected = (plain * weight, *([plain * (1 + weight)] if shifted else []))
    return any(bool((found - y).abs().max() <= rounding * y.abs().max().clamp_min(1e-30)) for y in expected)


def normalised(module: nn.Module, x: Tensor, epsilon: float) -> Tensor:
    """What the norm layer ``module`` multiplies by its weight, in float32 or float64."""
    x = x if x.dtype == torch.float64 else x.float()
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, x.shape[-1:], eps=epsilon)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
