"""Sketches of the per-sample gradients of an embedding table."""

from __future__ import annotations

import adaptinf_kernels.grad_sketch_embedding.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._arrays import Array, as_tensor
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.samples import GradSketch, check_cu_seqlens, check_rows, deliver
from torch import Tensor


def grad_sketch_embedding(
    ids: Array,
    grad_out: Array,
    cu_seqlens: Array,
    sketch: Sketch,
    *,
    name: str,
    vocabulary: int,
    padding_idx: int | None = None,
    return_norms: bool = False,
    add_to: Tensor | None = None,
    impl: Impl = "auto",
) -> GradSketch:
    """Sketch the gradient of ``y_t = E[ids_t]`` with respect to E for every sample: ``z_b = S vec(dE_b)``; [B, k].

    Row v of ``dE_b`` [vocabulary, d] is the sum of ``grad_out_t`` over the sample's tokens with ``ids_t = v``, zero for
    ``padding_idx``. The table's gradient is never formed; the matrix of a row depends on its id alone. A table that is
    also the head has the same name in both, and its sketches add up. A sample's bits do not depend on the rest of the
    batch. Sums are float32 (float64 for float64 input). Not differentiable.

    Args:
        ids: int64 or int32 [T], the samples' tokens one after the other; values on an accelerator are not checked.
        grad_out: [T, d], the gradient of the embedding's output.
        cu_seqlens: int32 or int64 [B + 1], see :func:`grad_sketch_linear`.
        sketch: the random matrix.
        name: the parameter's name.
        vocabulary: rows of the table.
        padding_idx: the id whose row gets no gradient (``nn.Embedding``'s), or None.
        return_norms: also return ``|dE_b|^2``.
        add_to: float32 [B, k] that the sketches are added to in place, and that is returned.
        impl: "auto", "reference", "native" or "triton".

    Raises:
        ValueError: shapes or segments do not fit, or an id is not in the table.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.
    """
    ids, grad_out, cu_seqlens = (
        as_tensor("ids", ids),
        as_tensor("grad_out", grad_out),
        as_tensor("cu_seqlens", cu_seqlens),
    )
    check_rows(grad_out=grad_out)
    check_cu_seqlens(cu_seqlens, grad_out.device)
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"ids must be int32 or int64, not {ids.dtype}")
    if ids.shape != grad_out.shape[:1] or ids.device != grad_out.device:
        raise ValueError(
            f"ids must be [T={grad_out.shape[0]}] on {grad_out.device}, not {list(ids.shape)} on {ids.device}"
        )
    if padding_idx is not None and not -vocabulary <= padding_idx < vocabulary:
        raise ValueError(f"padding_idx={padding_idx} is no row of {vocabulary}")
    padding = -1 if padding_idx is None else padding_idx % vocabulary
    z, squares = torch.ops.adaptinf_kernels.grad_sketch_embedding(
        ids, grad_out, cu_seqlens, *sketch.arguments, name, vocabulary, padding, return_norms, impl
    )
    return deliver(z, squares, add_to, return_norms)
