"""Triton: sjlt, with or without preconditioners, and xorts; see ``triton_kernels.py``."""

from __future__ import annotations

from adaptinf_kernels._triton import reasons_against
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import State
from adaptinf_kernels.sketch.triton_limits import linear_limits
from torch import Tensor

_MAX_RANK = 128


def not_supported_reasons(
    x: Tensor,
    grad_out: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    names: tuple[str, str],
    scaling: float,
    magnitude: Tensor | None,
    states: tuple[State, State],
    norms: bool,
) -> list[str]:
    """Kinds, sizes, device and dtypes."""
    reasons = reasons_against(x, grad_out, lora_a, lora_b, magnitude, *(moment for s in states for moment in s[1:3]))
    if len(lora_a) > _MAX_RANK:
        reasons.append(f"it keeps the rank in registers: up to {_MAX_RANK}, not {len(lora_a)}")
    return [*reasons, *linear_limits(sketch)]


def run(
    x: Tensor,
    grad_out: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    names: tuple[str, str],
    scaling: float,
    magnitude: Tensor | None,
    states: tuple[State, State],
    norms: bool,
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]), both float32."""
    from adaptinf_kernels.grad_sketch_lora.triton_kernels import lora

    return lora(x, grad_out, lora_a, lora_b, cu_seqlens, sketch, names, scaling, magnitude, states, norms)
