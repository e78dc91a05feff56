"""Inner products of the per-sample weight gradients of a Linear layer."""

from __future__ import annotations

import adaptinf_kernels.grad_gram.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._arrays import Array, as_tensor
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.sketch.samples import check_cu_seqlens, check_rows
from torch import Tensor


def grad_gram(
    x: Array,
    grad_out: Array,
    cu_seqlens: Array,
    *,
    other: tuple[Array, Array, Array] | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Inner products of per-sample gradients: ``out[b, c] = <G_b^T X_b, H_c^T Y_c>``; float32 [B, B] or [B, C].

    ``G_b^T X_b`` [d_out, d_in] is the gradient of ``y = x W^T`` with respect to W over the tokens of sample b; (Y, H)
    are the samples of ``other``, or those of the batch itself. No gradient is formed: the product equals
    ``sum_{t in b, u in c} (x_t . y_u) (g_t . h_u)``, at a cost of ``2 T_b T_c (d_in + d_out)`` operations.

    Without ``other`` the result is exactly symmetric. An entry's bits depend on its two samples alone, and not on which
    of them comes first. Sums are float32 (float64 for float64 input). A sample without tokens gives zeros. Not
    differentiable.

    Args:
        x: [T, d_in], the layer's input, floating point, any strides; the samples' tokens one after the other.
        grad_out: [T, d_out], the gradient of the layer's output.
        cu_seqlens: int32 or int64 [B + 1]; sample b has tokens ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]``. Values on an
            accelerator are not checked but clamped to the tokens.
        other: (x, grad_out, cu_seqlens) of C other samples of the same layer, dtypes and device, such as validation
            samples.
        impl: "auto", "triton", "native" or "reference".

    Raises:
        ValueError: shapes or segments do not fit.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.

    Source: the ghost inner product of Wang et al. 2024 (In-Run Data Shapley), after the ghost norm of Li et al. 2022.
    """
    x, grad_out = as_tensor("x", x), as_tensor("grad_out", grad_out)
    cu_seqlens = as_tensor("cu_seqlens", cu_seqlens)
    check_rows(x=x, grad_out=grad_out)
    check_cu_seqlens(cu_seqlens, x.device)
    other_x = other_grad_out = other_cu_seqlens = None
    if other is not None:
        other_x, other_grad_out = as_tensor("other's x", other[0]), as_tensor("other's grad_out", other[1])
        other_cu_seqlens = as_tensor("other's cu_seqlens", other[2])
        check_rows(**{"other's x": other_x, "other's grad_out": other_grad_out})
        check_cu_seqlens(other_cu_seqlens, x.device)
        _check_alike("x", x, other_x)
        _check_alike("grad_out", grad_out, other_grad_out)
    return torch.ops.adaptinf_kernels.grad_gram(
        x, grad_out, cu_seqlens, other_x, other_grad_out, other_cu_seqlens, impl
    )


def _check_alike(what: str, ours: Tensor, theirs: Tensor) -> None:
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"{what} has width {ours.shape[1]}, that of other {theirs.shape[1]}: not the same layer")
    if ours.dtype != theirs.dtype:
        raise TypeError(f"{what} is {ours.dtype}, that of other {theirs.dtype}; convert one of them")
    if ours.device != theirs.device:
        raise ValueError(f"{what} is on {ours.device}, that of other on {theirs.device}")
