"""What the cases share: inputs, and the implementations that a suite compares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Contender, Cost, Gate, Outputs, Setting

STEP = 100
"""Of the Adam whose state is random in these cases."""


def normal(setting: Setting, *shape: int, dtype: torch.dtype | None = None, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(setting.device, dtype or setting.dtype)


def equal_segments(setting: Setting, samples: int, tokens: int) -> Tensor:
    """int32 [samples + 1]: every sample has ``tokens`` tokens."""
    return torch.arange(0, (samples + 1) * tokens, tokens, dtype=torch.int32, device=setting.device)


def cost(flops: float, tensors: Iterable[Tensor], written: float, dtype: torch.dtype) -> Cost:
    """``tensors`` are read once, ``written`` bytes are written once."""
    read = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return Cost(flops, read + written, "bfloat16" if dtype == torch.bfloat16 else "float32")


def adam(gradients: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """The direction of Adam's step number ``STEP``, spelled out."""
    b1, b2, eps = 0.9, 0.999, 1e-8
    m, v = m.to(gradients.dtype), v.to(gradients.dtype)
    first = (b1 * m + (1 - b1) * gradients) / (1 - b1**STEP)
    second = (b2 * v + (1 - b2) * gradients**2) / (1 - b2**STEP)
    return first / (second.sqrt() + eps)


def implementations(
    setting: Setting,
    run: Callable[[str], Any],
    gate: Gate,
    outputs: Callable[[Any], Outputs],
    *,
    prefix: str = "",
    cost: Cost | None = None,
    graph: bool = True,
    reference: bool = False,
) -> list[Contender]:
    """A contender for each implementation that ``run(impl)`` is to be timed with, under the implementation's name.

    One that cannot run here is reported with its reasons. The reference is the specification, not a competitor: it
    takes part where ``reference`` says so, and at tiny scale.
    """
    names = ["triton", "native"] if setting.suite == "gpu" else ["native"]
    if reference or setting.tiny:
        names.append("reference")
    return [
        Contender(
            prefix + name,
            lambda name=name: lambda: run(name),
            gate,
            outputs,
            ours=True,
            cost=cost,
            graph=graph and name != "reference",
        )
        for name in names
    ]
