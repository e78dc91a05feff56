"""Sketches of the per-sample gradients of parameters that are vectors: biases, and the weights of norm layers."""

from __future__ import annotations

import adaptinf_kernels.grad_sketch_vector.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._arrays import Array, as_tensor
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import NONE, Preconditioner, check_preconditioner
from adaptinf_kernels.sketch.samples import GradSketch, check_cu_seqlens, check_rows, deliver
from torch import Tensor


def grad_sketch_bias(
    grad_out: Array,
    cu_seqlens: Array,
    sketch: Sketch,
    *,
    name: str,
    preconditioner: Preconditioner | None = None,
    return_norms: bool = False,
    add_to: Tensor | None = None,
    impl: Impl = "auto",
) -> GradSketch:
    """Sketch the gradient of a bias: that of ``sum_t g_t`` [d] over every sample's tokens, as a weight of shape (1, d).

    ``grad_out`` is [T, d]; the other arguments, the result and the errors are those of :func:`grad_sketch_linear`, a
    preconditioner's tensors are [1, d].
    """
    return _run(None, grad_out, cu_seqlens, sketch, name, preconditioner, return_norms, add_to, impl)


def grad_sketch_norm(
    normalised: Array,
    grad_out: Array,
    cu_seqlens: Array,
    sketch: Sketch,
    *,
    name: str,
    preconditioner: Preconditioner | None = None,
    return_norms: bool = False,
    add_to: Tensor | None = None,
    impl: Impl = "auto",
) -> GradSketch:
    """Sketch the gradient of a norm layer's weight w in ``y = w * normalised(x)`` (LayerNorm, RMSNorm, any layer that
    scales elementwise): that of ``sum_t g_t * normalised_t`` [d], as a weight of shape (1, d).

    ``normalised`` [T, d] is the layer's output before its weight, ``grad_out`` [T, d] the gradient of its output; the
    other arguments, the result and the errors are those of :func:`grad_sketch_linear`, a preconditioner's tensors are
    [1, d].
    """
    return _run(normalised, grad_out, cu_seqlens, sketch, name, preconditioner, return_norms, add_to, impl)


def _run(
    factor: Array | None,
    grad_out: Array,
    cu_seqlens: Array,
    sketch: Sketch,
    name: str,
    preconditioner: Preconditioner | None,
    return_norms: bool,
    add_to: Tensor | None,
    impl: Impl,
) -> GradSketch:
    factor = None if factor is None else as_tensor("normalised", factor)
    grad_out, cu_seqlens = as_tensor("grad_out", grad_out), as_tensor("cu_seqlens", cu_seqlens)
    check_rows(grad_out=grad_out, **({} if factor is None else {"normalised": factor}))
    check_cu_seqlens(cu_seqlens, grad_out.device)
    if factor is not None and factor.shape != grad_out.shape:
        raise ValueError(f"normalised must be {list(grad_out.shape)} as grad_out is, not {list(factor.shape)}")
    if preconditioner is not None:
        check_preconditioner(preconditioner, sketch.kind, (1, grad_out.shape[1]), grad_out.device)
    state = NONE if preconditioner is None else preconditioner.arguments
    z, squares = torch.ops.adaptinf_kernels.grad_sketch_vector(
        factor, grad_out, cu_seqlens, *sketch.arguments, name, *state, return_norms, impl
    )
    return deliver(z, squares, add_to, return_norms)
