"""Adding up the partial sketches of a sample in an order that never changes, and the direction of a preconditioner."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from adaptinf_kernels._triton import Compilation, launch
from torch import Tensor

_NUMBERS = 1024


@triton.jit(do_not_specialize=["parts"])
def add_partials_kernel(partials, out, parts, k, NUMBERS: tl.constexpr):
    """``out[b] = sum of partials[b]``, [B, parts, k] in the order of the parts; program (b, numbers)."""
    sample, number = tl.program_id(0).to(tl.int64), tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    total = tl.zeros((NUMBERS,), tl.float32)
    for part in range(parts):
        total += tl.load(partials + (sample * parts + part) * k + number, mask=number < k, other=0.0)
    tl.store(out + sample * k + number, total, mask=number < k)


def add_partials(partials: Tensor) -> Tensor:
    """float32 [B, parts, k] -> [B, k]."""
    samples, parts, k = partials.shape
    out = torch.empty(samples, k, dtype=torch.float32, device=partials.device)
    if out.numel():
        launch(add_partials_kernel, (samples, -(-k // _NUMBERS)), partials, out, parts, k, NUMBERS=_NUMBERS)
    return out


@triton.jit
def sum_rows(values, LEVELS: tl.constexpr, COLUMNS: tl.constexpr):
    """[2^LEVELS, COLUMNS] -> [COLUMNS]: neighbouring rows, then neighbouring sums.

    By position: the order of ``tl.sum`` may depend on how what was loaded is aligned in memory.
    """
    for level in tl.static_range(LEVELS):  # pyright: ignore[reportGeneralTypeIssues]
        pairs = values.reshape(1 << (LEVELS - 1 - level), 2, COLUMNS).permute(0, 2, 1)
        left, right = pairs.split()
        values = left + right
    return values.reshape(COLUMNS)


@triton.jit
def direction(gradient, first, second, keep1, new1, keep2, new2, eps, unbias1, unbias2, FORM: tl.constexpr):
    """The preconditioned gradient, see ``sketch/preconditioner.py``; float32 blocks of one shape."""
    if FORM == "diagonal":
        return gradient * second
    m = keep1 * first + new1 * gradient
    v = keep2 * second + new2 * gradient * gradient
    if FORM == "less":
        return m / tl.sqrt(v + eps)
    return m / unbias1 / (tl.sqrt(v / unbias2) + eps)


def compilations() -> list[Compilation]:
    """The one specialisation of :func:`add_partials`."""
    signature = {"partials": "*fp32", "out": "*fp32", "parts": "i32", "k": "i32", "NUMBERS": "constexpr"}
    constexprs, pointers = {"NUMBERS": _NUMBERS}, ("partials", "out")
    return [Compilation("add_partials", add_partials_kernel, signature, constexprs, 4, 3, pointers)]
