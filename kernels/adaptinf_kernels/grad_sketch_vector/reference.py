"""The gradient of every sample, formed (it is a vector), then sketched."""

from __future__ import annotations

import itertools

import torch
from adaptinf_kernels.project import reference as project
from adaptinf_kernels.sketch.columns import working_dtype
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import State, direction
from torch import Tensor


def not_supported_reasons(
    factor: Tensor | None,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    state: State,
    norms: bool,
) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(
    factor: Tensor | None,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    state: State,
    norms: bool,
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]), both float32."""
    dtype, bounds = working_dtype(grad_out), cu_seqlens.tolist()
    gradients = grad_out.new_zeros(len(bounds) - 1, grad_out.shape[1], dtype=dtype)
    for index, (start, stop) in enumerate(itertools.pairwise(bounds)):
        terms = grad_out[start:stop].to(dtype, copy=True, memory_format=torch.contiguous_format)
        if factor is not None:
            terms *= factor[start:stop].to(dtype)
        if stop > start:
            gradients[index] = direction(terms.sum(0, keepdim=True), state)[0]
    z = project.run(gradients, (1, grad_out.shape[1]), sketch, name)
    return z, gradients.double().square().sum(1).float() if norms else z.new_empty(0)
