"""A frozen model's matrix products on a CPU by oneDNN.

For float32 torch takes MKL, which uses AVX-512 on Intel's processors alone; oneDNN uses it wherever it is. On an AMD
EPYC of the fifth generation it is twice as fast (docs/measured-facts.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@contextmanager
def fast_products(model: nn.Module) -> Iterator[None]:
    """For the context, the Linear modules of ``model`` that can, run by oneDNN: frozen, float32, on the CPU.

    Their results differ from torch's by rounding. Hooks see what they always saw.
    """
    with ExitStack() as stack:
        for module in model.modules() if torch.backends.mkldnn.is_available() else ():
            if type(module) is nn.Linear and "forward" not in vars(module) and _can(module):
                module.forward = partial(_forward, module)
                stack.callback(delattr, module, "forward")
        yield


def _can(module: nn.Linear) -> bool:
    weight = module.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.requires_grad


def _forward(module: nn.Linear, input: Tensor) -> Tensor:
    if input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return nn.Linear.forward(module, input)
    return _Linear.apply(input, module.weight, module.bias)  # pyright: ignore[reportReturnType]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _product(grads[0], ctx.weight.t(), None), None, None


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``rows weight^T + bias``; the operator that torch's own compiler puts in for Linear on CPUs."""
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")  # noqa: SLF001
