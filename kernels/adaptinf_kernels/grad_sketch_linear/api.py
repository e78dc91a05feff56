"""Sketches of the per-sample weight gradients of a Linear layer."""

from __future__ import annotations

import adaptinf_kernels.grad_sketch_linear.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._arrays import Array, as_tensor
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import NONE, Preconditioner, check_preconditioner
from adaptinf_kernels.sketch.samples import GradSketch, check_cu_seqlens, check_rows, deliver
from torch import Tensor


def grad_sketch_linear(
    x: Array,
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
    """Sketch the weight gradient of a Linear layer for every sample: ``z_b = S vec(G_b^T X_b)``; float32 [B, k].

    ``G_b^T X_b`` [d_out, d_in] is the gradient of ``y = x W^T`` with respect to W over the tokens of sample b; vec is
    row-major and S the matrix of ``sketch`` for the parameter ``name``, so this is ``project`` of the per-sample
    gradients, up to rounding. With a preconditioner it is ``S vec(direction(G_b^T X_b))``. A sample's bits do not
    depend on the rest of the batch. Sums are float32 (float64 for float64 input). Not differentiable.

    Args:
        x: [T, d_in], the layer's input, floating point, any strides; the samples' tokens one after the other.
        grad_out: [T, d_out], the gradient of the layer's output.
        cu_seqlens: int32 or int64 [B + 1]; sample b has tokens ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]``. A sample
            without tokens gives zeros. Values on an accelerator are not checked but clamped to the tokens.
        sketch: the random matrix.
        name: the parameter's name.
        preconditioner: what is done to a sample's gradient before it is sketched; kinds sjlt and rademacher.
        return_norms: also return ``||G_b^T X_b||^2`` (of the direction, with a preconditioner).
        add_to: float32 [B, k] that the sketches are added to in place, and that is returned; the sketch of a model is
            the sum over its parameters.
        impl: "auto", "reference", "native" or "triton".

    Raises:
        ValueError: shapes or segments do not fit.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.
    """
    x, grad_out, cu_seqlens = as_tensor("x", x), as_tensor("grad_out", grad_out), as_tensor("cu_seqlens", cu_seqlens)
    check_rows(x=x, grad_out=grad_out)
    check_cu_seqlens(cu_seqlens, x.device)
    if preconditioner is not None:
        check_preconditioner(preconditioner, sketch.kind, (grad_out.shape[1], x.shape[1]), x.device)
    precondition = NONE if preconditioner is None else preconditioner.arguments
    z, squares = torch.ops.adaptinf_kernels.grad_sketch_linear(
        x, grad_out, cu_seqlens, *sketch.arguments, name, *precondition, return_norms, impl
    )
    return deliver(z, squares, add_to, return_norms)
