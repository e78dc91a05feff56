"""Sketches of per-sample weight gradients that are never formed whole."""

from __future__ import annotations

from typing import Literal, overload

import adaptinf_kernels.grad_sketch.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.sketch.definition import Sketch
from torch import Tensor


@overload
def grad_sketch_linear(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    *,
    name: str,
    return_norms: Literal[False] = False,
    add_to: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor: ...


@overload
def grad_sketch_linear(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    *,
    name: str,
    return_norms: Literal[True],
    add_to: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def grad_sketch_linear(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    *,
    name: str,
    return_norms: bool,
    add_to: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]: ...


def grad_sketch_linear(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    *,
    name: str,
    return_norms: bool = False,
    add_to: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Sketch the weight gradient of a Linear layer for every sample: ``z_b = S vec(G_b^T X_b)``; float32 [B, k].

    ``G_b^T X_b`` [d_out, d_in] is the gradient of ``y = x W^T`` with respect to W over the tokens of sample b; vec is
    row-major and S the matrix of ``sketch`` for the parameter ``name``, so this is ``project`` of the per-sample
    gradients, up to rounding. A sample's bits do not depend on the rest of the batch. Sums are float32 (float64 for
    float64 input). A bias [d_out] is the weight of an input of ones: pass ``x`` = ones [T, 1] and the bias' name.
    Not differentiable.

    Args:
        x: [T, d_in], the layer's input, floating point, any strides; the samples' tokens one after the other.
        grad_out: [T, d_out], the gradient of the layer's output.
        cu_seqlens: int32 or int64 [B + 1]; sample b has tokens ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]``. A sample
            without tokens gives zeros.
        sketch: the random matrix.
        name: the parameter's name.
        return_norms: also return ``||G_b^T X_b||^2``, float32 [B].
        add_to: float32 [B, k] that the sketches are added to in place, and that is returned; the sketch of a model is
            the sum over its parameters.
        impl: "auto" or "reference".

    Raises:
        ValueError: shapes or segments do not fit.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.
    """
    _check(x, grad_out, cu_seqlens)
    z, squares = torch.ops.adaptinf_kernels.grad_sketch_linear(
        x, grad_out, cu_seqlens, *sketch.arguments, name, return_norms, impl
    )
    if add_to is not None:
        if add_to.shape != z.shape or add_to.dtype != z.dtype:
            raise ValueError(f"add_to must be float32 {list(z.shape)}, not {add_to.dtype} {list(add_to.shape)}")
        z = add_to.add_(z)
    return (z, squares) if return_norms else z


def _check(x: Tensor, grad_out: Tensor, cu_seqlens: Tensor) -> None:
    if x.dim() != 2 or grad_out.dim() != 2 or x.shape[0] != grad_out.shape[0]:
        raise ValueError(f"x must be [T, d_in] and grad_out [T, d_out], not {list(x.shape)} and {list(grad_out.shape)}")
    if not x.is_floating_point() or not grad_out.is_floating_point():
        raise TypeError(f"x and grad_out must be floating point, not {x.dtype} and {grad_out.dtype}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64, not {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"cu_seqlens must be [B + 1], not {list(cu_seqlens.shape)}")
    if x.device != grad_out.device:
        raise ValueError(f"x is on {x.device} and grad_out on {grad_out.device}")
