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
    """For the context, the Linear modules of ``model`` run by oneDNN wherever they are frozen, float32 and on the CPU.

    Their results differ from torch's by rounding. Hooks see what they always saw.
    """
    with ExitStack() as stack:
        for module in model.modules() if torch.backends.mkldnn.is_available() else ():
            if type(module) is nn.Linear and "forward" not in vars(module):
                module.forward = partial(_forward, module)
                stack.callback(delattr, module, "forward")
        yield


def _forward(module: nn.Linear, input: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # which chooses its own products, and cannot lower ours
        return nn.Linear.forward(module, input)
    tensors = [input, module.weight] if module.bias is None else [input, module.weight, module.bias]
    fits = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
    if not fits or any(tensor.requires_grad for tensor in tensors[1:]) or torch.is_autocast_enabled("cpu"):
        return nn.Linear.forward(module, input)
    return _Linear.apply(*tensors)  # pyright: ignore[reportReturnType]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.weight, ctx.inputs = weight, 2 if bias is None else 3
        return _product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (_product(grads[0], ctx.weight.t(), None), None, None)[: ctx.inputs]


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``rows weight^T + bias``; the operator that torch's own compiler puts in for Linear on CPUs."""
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")  # noqa: SLF001
