"""``torch.ops.adaptinf_kernels.swiglu`` and its backward."""

from __future__ import annotations

from typing import Any

import torch
from adaptinf_kernels._autograd import below_autograd, differentiable
from adaptinf_kernels._dispatch import Op
from torch import Tensor
from torch.autograd.function import once_differentiable

OP = Op("swiglu", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define("swiglu(Tensor gate, Tensor up, str impl) -> Tensor")
_library.define("swiglu_backward(Tensor grad, Tensor gate, Tensor up, str impl) -> (Tensor, Tensor)")


@torch.library.impl(_library, "swiglu", "CPU")
@torch.library.impl(_library, "swiglu", "CUDA")
def _swiglu(gate: Tensor, up: Tensor, impl: str) -> Tensor:
    return OP(impl, gate, up, None)[0]


@torch.library.impl(_library, "swiglu_backward", "CPU")
@torch.library.impl(_library, "swiglu_backward", "CUDA")
def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    return OP(impl, gate, up, grad)


@torch.library.register_fake("adaptinf_kernels::swiglu", lib=_library)
def _swiglu_fake(gate: Tensor, up: Tensor, impl: str) -> Tensor:
    return gate.new_empty(gate.shape)


@torch.library.register_fake("adaptinf_kernels::swiglu_backward", lib=_library)
def _swiglu_backward_fake(grad: Tensor, gate: Tensor, up: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), gate.new_empty(gate.shape)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, impl: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.impl = impl
        return below_autograd(torch.ops.adaptinf_kernels.swiglu, gate, up, impl)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (*torch.ops.adaptinf_kernels.swiglu_backward(grads[0], *ctx.saved_tensors, ctx.impl), None)


differentiable(_library, "swiglu", _SwiGlu)
