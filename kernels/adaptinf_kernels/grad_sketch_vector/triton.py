"""Triton: the gradients, which are vectors, by ``triton_kernels.py``, then what ``project`` has kernels for."""

from __future__ import annotations

from adaptinf_kernels._triton import reasons_against
from adaptinf_kernels.project import triton as project
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import State
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
    """Those of ``project``, and device and dtype of the other tensors."""
    reasons = project.not_supported_reasons(grad_out, (1, grad_out.shape[1]), sketch, name)
    return list(dict.fromkeys([*reasons, *reasons_against(factor, state[1], state[2])]))


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
    from adaptinf_kernels.grad_sketch_vector.triton_kernels import sample_sums

    gradients, squares = sample_sums(factor, grad_out, cu_seqlens, state, norms)
    return project.run(gradients, (1, grad_out.shape[1]), sketch, name), squares
