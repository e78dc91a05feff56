"""``torch.ops.adaptinf_kernels.attention`` and its backward."""

from __future__ import annotations

from typing import Any

import torch
from adaptinf_kernels._autograd import below_autograd, differentiable
from adaptinf_kernels._dispatch import Op
from torch import Tensor
from torch.autograd.function import once_differentiable

OP = Op("attention", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? mask, bool causal, float scale, str impl)"
    " -> (Tensor, Tensor)"
)
_library.define(
    "attention_backward(Tensor grad, Tensor log_sums, Tensor query, Tensor key, Tensor value, Tensor? mask,"
    " bool causal, float scale, str impl) -> (Tensor, Tensor, Tensor)"
)


@torch.library.impl(_library, "attention", "CPU")
@torch.library.impl(_library, "attention", "CUDA")
def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float, impl: str
) -> tuple[Tensor, Tensor]:
    return OP(impl, query, key, value, mask, causal, scale, None)


@torch.library.impl(_library, "attention_backward", "CPU")
@torch.library.impl(_library, "attention_backward", "CUDA")
def _attention_backward(
    grad: Tensor,
    log_sums: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return OP(impl, query, key, value, mask, causal, scale, (grad, log_sums))


@torch.library.register_fake("adaptinf_kernels::attention", lib=_library)
def _attention_fake(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float, impl: str
) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, _ = query.shape
    sums = torch.float64 if query.dtype == torch.float64 else torch.float32
    return _heads(query, value.shape[3]), query.new_empty(batch, heads, tokens, dtype=sums)


@torch.library.register_fake("adaptinf_kernels::attention_backward", lib=_library)
def _attention_backward_fake(
    grad: Tensor,
    log_sums: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _heads(query, query.shape[3]), _heads(key, key.shape[3]), _heads(value, value.shape[3])


def _heads(like: Tensor, width: int) -> Tensor:
    """[B, H, T, width], a token's heads side by side, as the layers before and after want them."""
    batch, heads, tokens, _ = like.shape
    return like.new_empty(batch, tokens, heads, width).transpose(1, 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        out, log_sums = below_autograd(torch.ops.adaptinf_kernels.attention, *inputs)
        ctx.settings = inputs[4:]
        ctx.mark_non_differentiable(log_sums)
        ctx.save_for_backward(log_sums, *inputs[:4])
        return out, log_sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = torch.ops.adaptinf_kernels.attention_backward(grads[0], *ctx.saved_tensors, *ctx.settings)
        return (*found, None, None, None, None)


differentiable(_library, "attention", _Attention)
