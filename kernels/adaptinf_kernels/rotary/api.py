"""Rotary position embedding of the heads of queries or keys."""

from __future__ import annotations

import adaptinf_kernels.rotary.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._dispatch import Impl
from torch import Tensor


def rotary(x: Tensor, cos: Tensor, sin: Tensor, *, impl: Impl = "auto") -> Tensor:
    """``x cos + R(x) sin`` of every head, with ``R((a, b)) = (-b, a)`` of the halves of a row; [B, H, T, d].

    What transformers' ``apply_rotary_pos_emb`` does to queries and keys. In float32 (float64 for float64 input),
    rounded to the dtype of ``x``. Differentiable in ``x``, once; ``cos`` and ``sin`` are constants.

    Args:
        x: [B, H, T, d], floating point, any strides, d even.
        cos: [B, T, d] of the same dtype; B may be 1.
        sin: of the same shape and dtype.
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: shapes do not fit, or ``cos`` or ``sin`` asks for a gradient.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.

    Source: Su et al. 2021, RoFormer, section 3.4.2, with the pairs (i, i + d/2) of GPT-NeoX and Llama.
    """
    if x.dim() != 4 or x.shape[3] % 2:
        raise ValueError(f"x must be [batch, heads, tokens, width] with an even width, not {list(x.shape)}")
    batch, _, tokens, width = x.shape
    for name, table in (("cos", cos), ("sin", sin)):
        if not x.is_floating_point() or table.dtype != x.dtype:
            raise TypeError(f"x is {x.dtype} and {name} {table.dtype}; all must be of one floating-point dtype")
        if table.dim() != 3 or table.shape[0] not in (1, batch) or table.shape[1:] != (tokens, width):
            raise ValueError(f"{name} must be [{batch} or 1, {tokens}, {width}], not {list(table.shape)}")
        if table.device != x.device:
            raise ValueError(f"{name} is on {table.device}, x on {x.device}")
        if table.requires_grad:
            raise ValueError(f"{name} asks for a gradient, which is not computed; detach it")
    return torch.ops.adaptinf_kernels.rotary(x, cos, sin, impl)
