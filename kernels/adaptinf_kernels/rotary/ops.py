"""``torch.ops.adaptinf_kernels.rotary`` and its backward."""

from __future__ import annotations

from typing import Any

import torch
from adaptinf_kernels._autograd import below_autograd, differentiable
from adaptinf_kernels._dispatch import Op
from torch import Tensor
from torch.autograd.function import once_differentiable

OP = Op("rotary", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define("rotary(Tensor x, Tensor cos, Tensor sin, str impl) -> Tensor")
_library.define("rotary_backward(Tensor grad, Tensor cos, Tensor sin, str impl) -> Tensor")


@torch.library.impl(_library, "rotary", "CPU")
@torch.library.impl(_library, "rotary", "CUDA")
def _rotary(x: Tensor, cos: Tensor, sin: Tensor, impl: str) -> Tensor:
    return OP(impl, x, cos, sin, False)


@torch.library.impl(_library, "rotary_backward", "CPU")
@torch.library.impl(_library, "rotary_backward", "CUDA")
def _rotary_backward(grad: Tensor, cos: Tensor, sin: Tensor, impl: str) -> Tensor:
    return OP(impl, grad, cos, sin, True)


@torch.library.register_fake("adaptinf_kernels::rotary", lib=_library)
@torch.library.register_fake("adaptinf_kernels::rotary_backward", lib=_library)
def _rotary_fake(x: Tensor, cos: Tensor, sin: Tensor, impl: str) -> Tensor:
    batch, heads, tokens, width = x.shape
    return x.new_empty(batch, tokens, heads, width).transpose(1, 2)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, impl: str) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.impl = impl
        return below_autograd(torch.ops.adaptinf_kernels.rotary, x, cos, sin, impl)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = torch.ops.adaptinf_kernels.rotary_backward(grads[0], *ctx.saved_tensors, ctx.impl)
        return found, None, None, None


differentiable(_library, "rotary", _Rotary)
