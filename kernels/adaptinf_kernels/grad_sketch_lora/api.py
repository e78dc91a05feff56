"""Sketches of the per-sample gradients of LoRA's A and B, both in one pass over the layer's tokens."""

from __future__ import annotations

import adaptinf_kernels.grad_sketch_lora.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._arrays import Array, as_tensor
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import NONE, Preconditioner, check_preconditioner
from adaptinf_kernels.sketch.samples import GradSketch, check_cu_seqlens, check_rows, deliver
from torch import Tensor


def grad_sketch_lora(
    x: Array,
    grad_out: Array,
    lora_a: Array,
    lora_b: Array,
    cu_seqlens: Array,
    sketch: Sketch,
    *,
    names: tuple[str, str],
    scaling: float,
    magnitude: Tensor | None = None,
    preconditioners: tuple[Preconditioner | None, Preconditioner | None] = (None, None),
    return_norms: bool = False,
    add_to: Tensor | None = None,
    impl: Impl = "auto",
) -> GradSketch:
    """Sketch the gradients of ``y = W x + scaling B A x`` in A and B: ``z_b = S_A vec(dA_b) + S_B vec(dB_b)``; [B, k].

    With ``g' = scaling * magnitude * g`` (elementwise over d_out), sample by sample:

    * ``dA_b = (G'_b B)^T X_b``  [r, d_in]
    * ``dB_b = G'_b^T (X_b A^T)``  [d_out, r]

    Equals two calls of ``grad_sketch_linear`` up to rounding, but reads X and G once. Dropout is off: x is the input of
    A. A sample's bits do not depend on the rest of the batch. Sums are float32 (float64 for float64 input). Not
    differentiable. Source: Hu et al. 2021 (LoRA), Kalajdzievski 2023 (rsLoRA), Liu et al. 2024 (DoRA); the scaling
    conventions are those of peft.

    Args:
        x: [T, d_in], the input of the adapted layer.
        grad_out: [T, d_out], the gradient of its output.
        lora_a: [r, d_in].
        lora_b: [d_out, r].
        cu_seqlens: int32 or int64 [B + 1], see :func:`grad_sketch_linear`.
        sketch: the random matrix.
        names: the parameters' names, of A and of B.
        scaling: ``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA.
        magnitude: [d_out], DoRA's ``m / |W + scaling B A|``, which its gradient holds constant; None for plain LoRA.
        preconditioners: of A's gradient and of B's; kinds sjlt and rademacher.
        return_norms: also return ``|dA_b|^2 + |dB_b|^2`` (of the directions, with preconditioners).
        add_to: float32 [B, k] that the sketches are added to in place, and that is returned.
        impl: "auto", "reference", "native" or "triton".

    Raises:
        ValueError: shapes or segments do not fit.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.
    """
    x = as_tensor("x", x)
    grad_out = as_tensor("grad_out", grad_out)
    lora_a = as_tensor("lora_a", lora_a)
    lora_b = as_tensor("lora_b", lora_b)
    cu_seqlens = as_tensor("cu_seqlens", cu_seqlens)
    check_rows(x=x, grad_out=grad_out)
    check_cu_seqlens(cu_seqlens, x.device)
    rank = lora_a.shape[0] if lora_a.dim() == 2 else -1
    if lora_a.shape != (rank, x.shape[1]) or lora_b.shape != (grad_out.shape[1], rank):
        raise ValueError(
            f"lora_a must be [r, {x.shape[1]}] and lora_b [{grad_out.shape[1]}, r], "
            f"not {list(lora_a.shape)} and {list(lora_b.shape)}"
        )
    for what, tensor in (("lora_a", lora_a), ("lora_b", lora_b), ("magnitude", magnitude)):
        if tensor is not None and (not tensor.is_floating_point() or tensor.device != x.device):
            raise TypeError(f"{what} must be floating point on {x.device}, not {tensor.dtype} on {tensor.device}")
    if magnitude is not None and magnitude.shape != (grad_out.shape[1],):
        raise ValueError(f"magnitude must be [{grad_out.shape[1]}], not {list(magnitude.shape)}")
    states = []
    for parameter, preconditioner in zip((lora_a, lora_b), preconditioners, strict=True):
        if preconditioner is not None:
            check_preconditioner(preconditioner, sketch.kind, (parameter.shape[0], parameter.shape[1]), x.device)
        states += NONE if preconditioner is None else preconditioner.arguments
    z, squares = torch.ops.adaptinf_kernels.grad_sketch_lora(
        x,
        grad_out,
        lora_a,
        lora_b,
        cu_seqlens,
        *sketch.arguments,
        *names,
        scaling,
        magnitude,
        *states,
        return_norms,
        impl,
    )
    return deliver(z, squares, add_to, return_norms)
