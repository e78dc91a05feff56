"""What the Triton implementations share: where they can run, and what must compile ahead of time.

The folder of an op holds ``triton.py`` (``run`` and ``not_supported_reasons``, importable without triton) and
``triton_kernels.py`` (the ``@triton.jit`` functions and ``compilations()``, imported when first run). A launch's block
sizes, warps and stages follow from widths, dtypes and the architecture alone, never from how many samples or tokens
there are and never from a search at run time: equal inputs give equal bits.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

OLDEST_CAPABILITY = (8, 0)

TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
"""Triton's names of pointers, for signatures."""


@dataclass(frozen=True)
class Compilation:
    """One specialisation of a kernel, for compilation without a GPU.

    ``signature`` maps every parameter to its Triton type ("*bf16", "i32", "constexpr"), ``constexprs`` the last kind to
    values, ``divisible`` names the parameters that are multiples of 16. ``default`` marks what ``run`` launches unless
    told otherwise: those must not spill. ``architectures`` are those that it is launched on.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int
    num_stages: int
    divisible: tuple[str, ...] = ()
    default: bool = True
    architectures: tuple[int, ...] = (80, 90, 100)


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU (``TRITON_INTERPRET=1`` before triton is imported)."""
    return os.environ.get("TRITON_INTERPRET", "") in ("1", "true", "True")


def launch(kernel: Any, grid: tuple[int, ...], first: Tensor, *arguments: Any, **options: Any) -> None:
    """Run ``kernel`` on the device of its first argument; Triton itself takes the current one."""
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        kernel[grid](first, *arguments, **options)


def rows_of_numbers(tensor: Tensor) -> Tensor:
    """The matrix with neighbouring numbers in each row, rows anywhere: a copy where it is laid otherwise."""
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


@functools.cache
def _missing() -> list[str]:
    try:
        found = importlib.util.find_spec("triton") is not None
    except ImportError:  # an import hook refuses it
        found = False
    return [] if found else ["triton is not installed (`pip install 'triton>=3.6'`)"]


def is_hopper(device: torch.device) -> bool:
    """Whether blocks are cut for compute capability 9.0, whose tensor cores want the largest; interpreted: as there."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] == 9


def reasons_against(*tensors: Tensor | None) -> list[str]:
    """Why Triton kernels cannot run on these tensors (None is skipped): not installed, device, dtype."""
    reasons = list(_missing())
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype == torch.float64:
            reasons.append("float64 is computed by the reference alone")
        if tensor.device.type == "cuda":
            capability = torch.cuda.get_device_capability(tensor.device)
            if capability < OLDEST_CAPABILITY:
                reasons.append(f"it needs compute capability 8.0, {tensor.device} has {capability[0]}.{capability[1]}")
        elif not (tensor.device.type == "cpu" and interpreted()):
            reasons.append(f"it needs CUDA tensors, not {tensor.device.type} (or the interpreter, TRITON_INTERPRET=1)")
    return list(dict.fromkeys(reasons))
