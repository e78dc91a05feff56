"""LoRA's two gradients as those of two Linear layers, one sample at a time."""

from __future__ import annotations

import itertools

import torch
from adaptinf_kernels.grad_sketch_linear import reference as linear
from adaptinf_kernels.sketch.columns import working_dtype
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import State
from torch import Tensor


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
    """None: it runs everywhere."""
    return []


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
    dtype = working_dtype(x)
    x, g = x.to(dtype), grad_out.to(dtype) * scaling
    if magnitude is not None:
        g = g * magnitude.to(dtype)
    hidden, error = x.new_empty(len(x), len(lora_a)), x.new_empty(len(x), len(lora_a))  # A x and B^T g'
    a, b = lora_a.to(dtype), lora_b.to(dtype)
    bounds = cu_seqlens.tolist()
    for start, stop in itertools.pairwise(bounds):
        # clones: the bits of a matrix product may depend on where its operands begin
        hidden[start:stop] = x[start:stop].clone(memory_format=torch.contiguous_format) @ a.T
        error[start:stop] = g[start:stop].clone(memory_format=torch.contiguous_format) @ b
    z_a, squares_a = linear.run(x, error, cu_seqlens, sketch, names[0], states[0], norms)
    z_b, squares_b = linear.run(hidden, g, cu_seqlens, sketch, names[1], states[1], norms)
    return z_a + z_b, squares_a + squares_b
