# pyright: reportGeneralTypeIssues=false
"""xorts of ``G_b^T X_b`` without the gradient: each token's two CountSketches, transformed, multiplied and added up."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from adaptinf_kernels._triton import TYPES, Compilation, launch, rows_of_numbers
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.tables import xorts_sources
from adaptinf_kernels.sketch.triton_hadamard import LEAST, sides, transposed, walsh_hadamard
from adaptinf_kernels.sketch.triton_samples import TOKENS, add_slots, slots, tokens_of_slot
from torch import Tensor

_HELD = 4096
"""Numbers of a side that a program transforms at once: so many tokens times k."""


@triton.jit
def count_sketch(rows, sources, live, width, STEP: tl.constexpr, K: tl.constexpr):
    """float32 [STEP, K] of the rows that begin at ``rows``: among K neighbours each is moved to its own bucket."""
    total = tl.zeros((STEP, K), tl.float32)
    for first in range(0, width, K):
        column = first + tl.arange(0, K)
        values = tl.load(rows[:, None] + column[None, :], mask=live[:, None] & (column < width)[None, :], other=0.0)
        source = tl.load(sources + column)
        place = tl.arange(0, STEP)[:, None] * K + (source & 0x7FFF).to(tl.int32)[None, :]
        moved = tl.gather(values.reshape(STEP * K), place.reshape(STEP * K), 0)  # of one axis: by shared memory
        moved = moved.reshape(STEP, K).to(tl.float32)
        total += tl.where((source < 0)[None, :], -moved, moved)
    return total


@triton.jit(do_not_specialize=["samples", "tokens"])
def linear_xorts_kernel(
    x,
    grad_out,
    cu_seqlens,
    in_sources,
    out_sources,
    partials,
    samples,
    tokens,
    d_in,
    d_out,
    stride_x,
    stride_g,
    in_ids,
    out_ids,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
    K1: tl.constexpr,
    K2: tl.constexpr,
):
    """``partials[slot, repetition]``: the transformed sketch of the slot's tokens; program (slot, repetition)."""
    slot, repetition = tl.program_id(0), tl.program_id(1)
    first, last = tokens_of_slot(cu_seqlens, samples, tokens, slot, TOKENS)
    in_sources += repetition * in_ids
    out_sources += repetition * out_ids
    total = tl.zeros((STEP * K2, K1), tl.float32)
    for begin in range(first, last, STEP):
        token = begin + tl.arange(0, STEP)
        live = token < last
        g = count_sketch(grad_out + token.to(tl.int64) * stride_g, out_sources, live, d_out, STEP, K1 * K2)
        g = walsh_hadamard(g, STEP, K1, K2)
        z = count_sketch(x + token.to(tl.int64) * stride_x, in_sources, live, d_in, STEP, K1 * K2)
        total += g * walsh_hadamard(z, STEP, K1, K2)
    place = (slot.to(tl.int64) * tl.num_programs(1) + repetition) * (K1 * K2) + tl.arange(0, K1 * K2)
    tl.store(partials + place, tl.sum(total.reshape(STEP, K1 * K2), 0))


@triton.jit
def transform_back_kernel(sums, out, ROWS: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr):
    """``out[b] = H sums[b] / k``; program b. Rows but the first fill the smallest matrix product."""
    sample, row = tl.program_id(0).to(tl.int64) * (K1 * K2), tl.arange(0, ROWS)[:, None]
    number = tl.arange(0, K1 * K2)[None, :]
    values = tl.load(sums + sample + transposed(number, K1, K2) + row * 0, mask=row == 0, other=0.0)
    found = walsh_hadamard(values, ROWS, K1, K2).reshape(ROWS, K1 * K2) / (K1 * K2)
    tl.store(out + sample + number % K1 * K2 + number // K1 + row * 0, found, mask=row == 0)


def linear_xorts(x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, name: str) -> Tensor:
    """float32 [B, k] with entries of +-1."""
    samples, k, repetitions = len(cu_seqlens) - 1, sketch.k, sketch.repetitions
    d_in, d_out = x.shape[1], grad_out.shape[1]
    if not (samples and len(x) and d_in and d_out):
        return x.new_zeros(samples, k, dtype=torch.float32)
    x, grad_out, cu_seqlens = rows_of_numbers(x), rows_of_numbers(grad_out), cu_seqlens.contiguous()
    in_sources = xorts_sources(sketch, name, 1, d_in, x.device)
    out_sources = xorts_sources(sketch, name, 0, d_out, x.device)
    programs = slots(len(x), samples, TOKENS)
    partials = x.new_empty(programs, repetitions, k, dtype=torch.float32)
    (k1, k2), step = sides(k), _step(k)
    launch(
        linear_xorts_kernel, (programs, repetitions), x, grad_out, cu_seqlens, in_sources, out_sources, partials,
        samples, len(x), d_in, d_out, x.stride(0), grad_out.stride(0), in_sources.shape[1], out_sources.shape[1],
        TOKENS=TOKENS, STEP=step, K1=k1, K2=k2, num_warps=_warps(step * k), num_stages=1,
    )  # fmt: skip
    sums = add_slots(partials, cu_seqlens, len(x))
    z, rows = torch.empty_like(sums), _rows(k)
    launch(
        transform_back_kernel, (samples,), sums, z, ROWS=rows, K1=k1, K2=k2, num_warps=_warps(rows * k), num_stages=1
    )
    return z


def _step(k: int) -> int:
    """Tokens that a program takes at once."""
    return min(_HELD // k, TOKENS)


def _warps(numbers: int) -> int:
    return 8 if numbers >= _HELD else 4


def _rows(k: int) -> int:
    return 1 if sides(k)[0] > 1 else LEAST


def compilations() -> list[Compilation]:
    """What :func:`linear_xorts` launches."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    cases = [(bf16, bf16, 4096), (bf16, bf16, 1024), (bf16, bf16, 64), (fp16, fp16, 4096)]
    cases += [(fp32, fp32, 4096), (bf16, fp32, 4096), (fp32, bf16, 4096)]
    return [_compilation(*case) for case in cases] + [_back_compilation(k) for k in (64, 4096)]


def _compilation(x: torch.dtype, grad_out: torch.dtype, k: int) -> Compilation:
    (k1, k2), step = sides(k), _step(k)
    constexprs = {"TOKENS": TOKENS, "STEP": step, "K1": k1, "K2": k2}
    pointers = {"x": TYPES[x], "grad_out": TYPES[grad_out], "cu_seqlens": "*i64", "in_sources": "*i16"}
    pointers |= {"out_sources": "*i16", "partials": "*fp32"}
    widths = ("d_in", "d_out", "stride_x", "stride_g", "in_ids", "out_ids")
    signature = pointers | dict.fromkeys(("samples", "tokens", *widths), "i32") | dict.fromkeys(constexprs, "constexpr")
    name = f"linear_xorts {TYPES[x]} {TYPES[grad_out]} k={k}"
    return Compilation(
        name, linear_xorts_kernel, signature, constexprs, _warps(step * k), 1, (*pointers, *widths)
    )  # fmt: skip


def _back_compilation(k: int) -> Compilation:
    k1, k2 = sides(k)
    constexprs = {"ROWS": _rows(k), "K1": k1, "K2": k2}
    signature = {"sums": "*fp32", "out": "*fp32"} | dict.fromkeys(constexprs, "constexpr")
    warps = _warps(_rows(k) * k)
    return Compilation(
        f"transform_back k={k}", transform_back_kernel, signature, constexprs, warps, 1, ("sums", "out")
    )  # fmt: skip
