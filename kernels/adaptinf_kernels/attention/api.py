"""Attention of short rows."""

from __future__ import annotations

import adaptinf_kernels.attention.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._dispatch import Impl
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """``softmax(scale Q K^T) V`` of every head; [B, H, T, e] in the dtype of ``query``.

    What ``torch.nn.functional.scaled_dot_product_attention`` computes without dropout, made for many heads over rows of
    tens to hundreds of tokens. A query that sees no key gives zeros, and no gradient flows from it. Sums are float32
    (float64 for float64 input). A head's bits do not depend on the rest of the batch nor on the number of threads.
    Differentiable in query, key and value, once.

    Args:
        query: [B, H, T, d], floating point, any strides.
        key: [B, G, S, d] of the same dtype; H is a multiple of G, and query head h goes with key head ``h G // H``.
        value: [B, G, S, e].
        mask: bool, broadcast to [B, H, T, S]: whether query t sees key s.
        causal: query t sees the keys 0 to t alone (of those that the mask lets it see).
        scale: ``d ** -0.5`` if None.
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: shapes do not fit.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.

    Source: Vaswani et al. 2017, section 3.2.1; gradients from the row's log-sum-exp as in FlashAttention-2 (Dao 2023).
    """
    _check(query, key, value, mask)
    scale = query.shape[3] ** -0.5 if scale is None else float(scale)
    return torch.ops.adaptinf_kernels.attention(query, key, value, mask, causal, scale, impl)[0]


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must be [batch, heads, tokens, width], not {list(tensor.shape)}")
        if not tensor.is_floating_point() or tensor.dtype != query.dtype:
            raise TypeError(f"{name} is {tensor.dtype}; all three must be of one floating-point dtype, as query")
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, query on {query.device}")
    (batch, heads, tokens, width), (_, groups, keys, _) = query.shape, key.shape
    if not width:
        raise ValueError(f"query is {list(query.shape)}: it has no columns to compare")
    if key.shape != (batch, groups, keys, width) or value.shape[:3] != key.shape[:3]:
        raise ValueError(
            f"key must be [B={batch}, G, S, d={width}] and value [B, G, S, e], not {list(key.shape)} and "
            f"{list(value.shape)}"
        )
    if heads % groups if groups else heads:
        raise ValueError(f"query has {heads} heads, which is no multiple of the {groups} of key")
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be bool, not {mask.dtype}")
        if mask.device != query.device:
            raise ValueError(f"mask is on {mask.device}, query on {query.device}")
        try:
            mask.expand(batch, heads, tokens, keys)
        except RuntimeError:
            wanted = [batch, heads, tokens, keys]
            raise ValueError(f"mask is {list(mask.shape)}, which does not broadcast to {wanted}") from None
