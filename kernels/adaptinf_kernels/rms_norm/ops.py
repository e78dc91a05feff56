"""``torch.ops.adaptinf_kernels.rms_norm`` and its backward."""

from __future__ import annotations

from typing import Any

import torch
from adaptinf_kernels._autograd import below_autograd, differentiable
from adaptinf_kernels._dispatch import Op
from torch import Tensor
from torch.autograd.function import once_differentiable

OP = Op("rms_norm", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define("rms_norm(Tensor x, Tensor weight, float epsilon, str impl) -> Tensor")
_library.define("rms_norm_backward(Tensor grad, Tensor x, Tensor weight, float epsilon, str impl) -> Tensor")


@torch.library.impl(_library, "rms_norm", "CPU")
@torch.library.impl(_library, "rms_norm", "CUDA")
def _rms_norm(x: Tensor, weight: Tensor, epsilon: float, impl: str) -> Tensor:
    return OP(impl, x, weight, epsilon, None)


@torch.library.impl(_library, "rms_norm_backward", "CPU")
@torch.library.impl(_library, "rms_norm_backward", "CUDA")
def _rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, epsilon: float, impl: str) -> Tensor:
    return OP(impl, x, weight, epsilon, grad)


@torch.library.register_fake("adaptinf_kernels::rms_norm", lib=_library)
def _rms_norm_fake(x: Tensor, weight: Tensor, epsilon: float, impl: str) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("adaptinf_kernels::rms_norm_backward", lib=_library)
def _rms_norm_backward_fake(grad: Tensor, x: Tensor, weight: Tensor, epsilon: float, impl: str) -> Tensor:
    return x.new_empty(x.shape)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, impl: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = epsilon, impl
        return below_autograd(torch.ops.adaptinf_kernels.rms_norm, x, weight, epsilon, impl)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,), (x, weight), of_x, of_weight = grads, ctx.saved_tensors, None, None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.adaptinf_kernels.rms_norm_backward(grad, x, weight, *ctx.settings)
        if ctx.needs_input_grad[1]:
            plain = torch.ops.adaptinf_kernels.rms_norm(x, torch.ones_like(weight), *ctx.settings)
            of_weight = (plain * grad).flatten(0, -2).sum(0) if x.dim() > 1 else plain * grad
        return of_x, of_weight, None, None


differentiable(_library, "rms_norm", _RmsNorm)
