"""Ops that autograd differentiates by a Function of ours.

``torch.library.register_autograd`` does the same with more Python a call, which short rows feel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def differentiable(library: torch.library.Library, name: str, function: type[torch.autograd.Function]) -> None:
    """Autograd takes ``function`` for the op ``name`` wherever an input asks for a gradient."""
    op = getattr(torch.ops.adaptinf_kernels, name)

    def run(*inputs: Any) -> Any:
        asks = torch.is_grad_enabled() and any(isinstance(one, Tensor) and one.requires_grad for one in inputs)
        return function.apply(*inputs) if asks else below_autograd(op, *inputs)

    library.impl(name, run, "Autograd")


def below_autograd(op: Any, *inputs: Any) -> Any:
    """The op's own implementation, of which autograd keeps no record."""
    with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - as torch's own Python ops do
        return op(*inputs)
