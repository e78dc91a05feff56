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
from adaptinf_kernels.sketch.triton_limits import TRANSFORMS
from adaptinf_kernels.sketch.triton_samples import TOKENS, add_slots, slots, tokens_of_slot
from torch import Tensor

_HELD = 4096
"""Numbers of a token's side that a program transforms, at most."""


@triton.jit
def minus(piece, other):
    """Whether ``H[piece, other]`` is -1, of a Hadamard matrix of up to 16 rows."""
    bits = piece & other
    bits ^= bits >> 2
    return ((bits ^ (bits >> 1)) & 1) == 1


@triton.jit
def count_sketch(rows, sources, live, width, piece, STEP: tl.constexpr, K: tl.constexpr, PIECES: tl.constexpr):
    """float32 [STEP, K] of the rows that begin at ``rows``: among k = K PIECES neighbours each goes to its own bucket.

    Where k has several pieces, this is one of them after the topmost log2 PIECES levels of the transform.
    """
    total = tl.zeros((STEP, K), tl.float32)
    for first in range(0, width, K * PIECES):
        column = first + tl.arange(0, K * PIECES)
        values = tl.load(rows[:, None] + column[None, :], mask=live[:, None] & (column < width)[None, :], other=0.0)
        values = values.reshape(STEP * K * PIECES)
        for other in tl.static_range(PIECES):
            source = tl.load(sources + first + other * K + tl.arange(0, K))
            place = tl.arange(0, STEP)[:, None] * (K * PIECES) + (source & 0x7FFF).to(tl.int32)[None, :]
            moved = tl.gather(values, place.reshape(STEP * K), 0)  # of one axis: by shared memory
            moved = moved.reshape(STEP, K).to(tl.float32)
            negative = source < 0
            if PIECES > 1:
                negative = negative != minus(piece, other)
            total += tl.where(negative[None, :], -moved, moved)
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
    PIECES: tl.constexpr,
):
    """``partials[slot, repetition, piece]``: the transformed sketch of the slot's tokens; a program each."""
    slot, repetition, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, last = tokens_of_slot(cu_seqlens, samples, tokens, slot, TOKENS)
    in_sources += repetition * in_ids
    out_sources += repetition * out_ids
    total = tl.zeros((STEP * K2, K1), tl.float32)
    for begin in range(first, last, STEP):
        token = begin + tl.arange(0, STEP)
        live = token < last
        g = count_sketch(
            grad_out + token.to(tl.int64) * stride_g, out_sources, live, d_out, piece, STEP, K1 * K2, PIECES
        )
        g = walsh_hadamard(g, STEP, K1, K2)
        z = count_sketch(x + token.to(tl.int64) * stride_x, in_sources, live, d_in, piece, STEP, K1 * K2, PIECES)
        total += g * walsh_hadamard(z, STEP, K1, K2)
    place = ((slot.to(tl.int64) * tl.num_programs(1) + repetition) * PIECES + piece) * (K1 * K2)
    tl.store(partials + place + tl.arange(0, K1 * K2), tl.sum(total.reshape(STEP, K1 * K2), 0))


@triton.jit
def transform_back_kernel(
    sums, out, ROWS: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, PIECES: tl.constexpr
):  # fmt: skip
    """``out[b] = H sums[b] / k``; program (b, piece). Rows but the first fill the smallest matrix product."""
    piece, row = tl.program_id(1), tl.arange(0, ROWS)[:, None]
    sample = tl.program_id(0).to(tl.int64) * (K1 * K2 * PIECES)
    number = tl.arange(0, K1 * K2)[None, :]
    total = tl.zeros((ROWS, K1 * K2), tl.float32)
    for other in tl.static_range(PIECES):
        at = sums + sample + other * (K1 * K2) + transposed(number, K1, K2)
        values = tl.load(at + row * 0, mask=row == 0, other=0.0)
        total += tl.where(minus(piece, other), -values, values)
    found = walsh_hadamard(total, ROWS, K1, K2).reshape(ROWS, K1 * K2) / (K1 * K2 * PIECES)
    at = out + sample + piece * (K1 * K2) + number % K1 * K2 + number // K1
    tl.store(at + row * 0, found, mask=row == 0)


def linear_xorts(x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, name: str) -> Tensor:
    """float32 [B, k] with entries of +-1."""
    samples, k, repetitions = len(cu_seqlens) - 1, sketch.k, sketch.repetitions
    d_in, d_out = x.shape[1], grad_out.shape[1]
    if not (samples and len(x) and d_in and d_out):
        return x.new_zeros(samples, k, dtype=torch.float32)
    x, grad_out, cu_seqlens = rows_of_numbers(x), rows_of_numbers(grad_out), cu_seqlens.contiguous()
    in_sources = xorts_sources(sketch, name, 1, d_in, x.device)
    out_sources = xorts_sources(sketch, name, 0, d_out, x.device)
    programs, pieces = slots(len(x), samples, TOKENS), _pieces(k)
    partials = x.new_empty(programs, repetitions, k, dtype=torch.float32)
    k1, k2 = sides(k // pieces)
    launch(
        linear_xorts_kernel, (programs, repetitions, pieces), x, grad_out, cu_seqlens, in_sources, out_sources,
        partials, samples, len(x), d_in, d_out, x.stride(0), grad_out.stride(0), in_sources.shape[1],
        out_sources.shape[1], TOKENS=TOKENS, STEP=_step(k), K1=k1, K2=k2, PIECES=pieces, num_warps=_warps(k),
        num_stages=1,
    )  # fmt: skip
    sums, rows = add_slots(partials, cu_seqlens, len(x)), _rows(k)
    z = torch.empty_like(sums)
    launch(
        transform_back_kernel, (samples, pieces), sums, z, ROWS=rows, K1=k1, K2=k2, PIECES=pieces,
        num_warps=_back_warps(rows * k), num_stages=1,
    )  # fmt: skip
    return z


def _pieces(k: int) -> int:
    """Programs that share a token's transform."""
    return max(1, k // _HELD)


def _step(k: int) -> int:
    """Tokens that a program takes at once: 2048 numbers of them, because more spill on compute capability 10.0."""
    return max(1, min(2048 // k, TOKENS))


def _warps(k: int) -> int:
    """With eight, k = 256 spills on compute capability 8.0."""
    return 8 if k > 256 else 4


def _back_warps(numbers: int) -> int:
    return 8 if numbers >= 2048 else 4


def _rows(k: int) -> int:
    return 1 if sides(k)[0] > 1 else LEAST


def compilations() -> list[Compilation]:
    """What :func:`linear_xorts` launches: every k in bfloat16, other dtypes with the k that takes most registers."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    low, high = TRANSFORMS
    sizes = [k for k in (1 << power for power in range(high.bit_length())) if k >= low]
    cases = [(bf16, bf16, k) for k in sizes]
    cases += [(*dtypes, 4096) for dtypes in ((fp16, fp16), (fp32, fp32), (bf16, fp32), (fp32, bf16))]
    return [_compilation(*case) for case in cases] + [_back_compilation(k) for k in sizes]


def _compilation(x: torch.dtype, grad_out: torch.dtype, k: int) -> Compilation:
    k1, k2 = sides(k // _pieces(k))
    constexprs = {"TOKENS": TOKENS, "STEP": _step(k), "K1": k1, "K2": k2, "PIECES": _pieces(k)}
    pointers = {"x": TYPES[x], "grad_out": TYPES[grad_out], "cu_seqlens": "*i64", "in_sources": "*i16"}
    pointers |= {"out_sources": "*i16", "partials": "*fp32"}
    widths = ("d_in", "d_out", "stride_x", "stride_g", "in_ids", "out_ids")
    signature = pointers | dict.fromkeys(("samples", "tokens", *widths), "i32") | dict.fromkeys(constexprs, "constexpr")
    name = f"linear_xorts {TYPES[x]} {TYPES[grad_out]} k={k}"
    return Compilation(name, linear_xorts_kernel, signature, constexprs, _warps(k), 1, (*pointers, *widths))


def _back_compilation(k: int) -> Compilation:
    k1, k2 = sides(k // _pieces(k))
    constexprs = {"ROWS": _rows(k), "K1": k1, "K2": k2, "PIECES": _pieces(k)}
    signature = {"sums": "*fp32", "out": "*fp32"} | dict.fromkeys(constexprs, "constexpr")
    warps = _back_warps(_rows(k) * k)
    return Compilation(
        f"transform_back k={k}", transform_back_kernel, signature, constexprs, warps, 1, ("sums", "out")
    )  # fmt: skip
