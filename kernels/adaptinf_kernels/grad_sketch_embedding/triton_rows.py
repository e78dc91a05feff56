# pyright: reportGeneralTypeIssues=false
"""xorts and rademacher of rows of a weight's gradient, token by token: a token's numbers are the row at its id.

A sketch is linear, so rows of one id need not meet. Nothing is formed, sorted or added atomically; a program takes some
tokens of one sample and a part of the sketch's rows, and ``add_slots`` adds a sample's programs in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from adaptinf_kernels._triton import TYPES, Compilation, launch, rows_of_numbers
from adaptinf_kernels.sketch.definition import Sketch, philox_key
from adaptinf_kernels.sketch.tables import xorts_codes, xorts_sources
from adaptinf_kernels.sketch.triton_partials import sum_rows
from adaptinf_kernels.sketch.triton_philox import key_argument, sign_bits
from adaptinf_kernels.sketch.triton_runs import flipped
from adaptinf_kernels.sketch.triton_samples import TOKENS, add_slots, slots, tokens_of_slot
from torch import Tensor

_BUCKETS, _LEVELS = 256, 2
"""Of xorts: buckets of a program, at most, and the base-2 logarithm of the tokens that it takes at once."""

_SIGN_ROWS, _COLUMN_LEVELS = 64, 7
"""Of rademacher: rows of the sketch in a program, and the base-2 logarithm of the columns of a Philox call."""

_XORTS_WARPS, _DENSE_WARPS = 8, 4


@triton.jit(do_not_specialize=["samples", "tokens", "vocabulary", "padding"])
def xorts_kernel(
    grad_out, ids, cu_seqlens, codes, sources, partials, samples, tokens, vocabulary, width, stride, padding,
    in_ids, k, TOKENS: tl.constexpr, BUCKETS: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """``partials[slot, repetition]``: of bucket j what lies at bucket j XOR h(id) of the token's CountSketch."""
    slot, repetition = tl.program_id(0), tl.program_id(1)
    bucket = tl.program_id(2) * BUCKETS + tl.arange(0, BUCKETS)
    first, last = tokens_of_slot(cu_seqlens, samples, tokens, slot, TOKENS)
    codes += repetition.to(tl.int64) * vocabulary
    sources += repetition.to(tl.int64) * in_ids
    total = tl.zeros((1 << LEVELS, BUCKETS), tl.float32)
    for begin in range(first, last, 1 << LEVELS):
        token = begin + tl.arange(0, 1 << LEVELS).to(tl.int64)  # pyright: ignore[reportOperatorIssue]
        row = tl.load(ids + token, mask=token < last, other=-1).to(tl.int64)
        live = (row >= 0) & (row < vocabulary) & (row != padding)
        code = tl.load(codes + row, mask=live, other=0).to(tl.int32)
        place = bucket[None, :] ^ (code & (k - 1))[:, None]
        for column in range(0, width, k):
            source = tl.load(sources + column + place)
            entry = column + (source & 0x7FFF).to(tl.int32)
            at = grad_out + token[:, None] * stride + entry
            values = tl.load(at, mask=live[:, None] & (entry < width), other=0.0).to(tl.float32)
            total += tl.where((source < 0) != (code >= k)[:, None], -values, values)
    place = (slot.to(tl.int64) * tl.num_programs(1) + repetition) * k + bucket
    tl.store(partials + place, sum_rows(total, LEVELS, BUCKETS))


@triton.jit(do_not_specialize=["samples", "tokens", "vocabulary", "padding", "key"])
def dense_kernel(
    grad_out, ids, cu_seqlens, partials, samples, tokens, vocabulary, width, stride, padding, key, k,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """``partials[slot, rows]``: the tokens' numbers with the signs of their places in the weight."""
    slot, rows = tl.program_id(0), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    first, last = tokens_of_slot(cu_seqlens, samples, tokens, slot, TOKENS)
    total = tl.zeros((ROWS, 1 << LEVELS), tl.float32)
    for place in range(first, last):
        token = tl.cast(place, tl.int64)  # the interpreter counts in Python's numbers
        row = tl.load(ids + token).to(tl.int64)
        if (row >= 0) & (row < vocabulary) & (row != padding):
            start = row * width
            for number in range(start >> LEVELS, (start + width + (1 << LEVELS) - 1) >> LEVELS):
                block = tl.cast(number, tl.int64)
                column = (block << LEVELS) - start + tl.arange(0, 1 << LEVELS)
                at = grad_out + token * stride + column
                values = tl.load(at, mask=(column >= 0) & (column < width), other=0.0).to(tl.float32)
                total += flipped(values[None, :], sign_bits(key, 0, rows, block, ROWS) << 31)
    tl.store(partials + slot.to(tl.int64) * k + rows, sum_rows(total.trans(1, 0), LEVELS, ROWS), mask=rows < k)


def rows_xorts(
    ids: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, name: str, vocabulary: int, padding: int
) -> Tensor:
    """float32 [B, k] with entries of +-1; ``padding`` is an id, or -1, and ids beyond the vocabulary do not count."""
    samples, tokens, width, k = len(cu_seqlens) - 1, len(ids), grad_out.shape[1], sketch.k
    programs = slots(tokens, samples, TOKENS) if tokens and width else 0
    if not (programs and samples):
        return grad_out.new_zeros(samples, k, dtype=torch.float32)
    codes = xorts_codes(sketch, name, 0, vocabulary, ids.device)
    sources = xorts_sources(sketch, name, 1, width, ids.device)
    partials = grad_out.new_empty(programs, sketch.repetitions, k, dtype=torch.float32)
    grad_out, cu_seqlens, buckets = rows_of_numbers(grad_out), cu_seqlens.contiguous(), min(_BUCKETS, k)
    launch(
        xorts_kernel, (programs, sketch.repetitions, k // buckets), grad_out, ids.contiguous(), cu_seqlens, codes,
        sources, partials, samples, tokens, vocabulary, width, grad_out.stride(0), padding, sources.shape[1], k,
        TOKENS=TOKENS, BUCKETS=buckets, LEVELS=_LEVELS, num_warps=_XORTS_WARPS, num_stages=1,
    )  # fmt: skip
    return add_slots(partials, cu_seqlens, tokens)


def rows_dense(
    ids: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, name: str, vocabulary: int, padding: int
) -> Tensor:
    """float32 [B, k] with entries of +-1; ``padding`` is an id, or -1, and ids beyond the vocabulary do not count."""
    samples, tokens, width, k = len(cu_seqlens) - 1, len(ids), grad_out.shape[1], sketch.k
    programs = slots(tokens, samples, TOKENS) if tokens and width else 0
    if not (programs and samples):
        return grad_out.new_zeros(samples, k, dtype=torch.float32)
    partials = grad_out.new_empty(programs, 1, k, dtype=torch.float32)
    grad_out, cu_seqlens = rows_of_numbers(grad_out), cu_seqlens.contiguous()
    launch(
        dense_kernel, (programs, -(-k // _SIGN_ROWS)), grad_out, ids.contiguous(), cu_seqlens, partials, samples,
        tokens, vocabulary, width, grad_out.stride(0), padding, key_argument(philox_key(sketch.seed, name)), k,
        TOKENS=TOKENS, ROWS=_SIGN_ROWS, LEVELS=_COLUMN_LEVELS, num_warps=_DENSE_WARPS, num_stages=1,
    )  # fmt: skip
    return add_slots(partials, cu_seqlens, tokens)


def compilations() -> list[Compilation]:
    """Both kernels for every dtype; xorts with few buckets too."""
    xorts = [_xorts_compilation(dtype, _BUCKETS) for dtype in TYPES]
    return [*xorts, _xorts_compilation(torch.bfloat16, 64), *(_dense_compilation(dtype) for dtype in TYPES)]


def _xorts_compilation(dtype: torch.dtype, buckets: int) -> Compilation:
    constexprs = {"TOKENS": TOKENS, "BUCKETS": buckets, "LEVELS": _LEVELS}
    pointers = {"grad_out": TYPES[dtype], "ids": "*i64", "cu_seqlens": "*i64", "codes": "*i64", "sources": "*i16"}
    pointers |= {"partials": "*fp32"}
    numbers = ("samples", "tokens", "vocabulary", "width", "stride", "padding", "in_ids", "k")
    kinds = pointers | dict.fromkeys(numbers, "i32") | dict.fromkeys(constexprs, "constexpr")
    divisible = (*pointers, "width", "stride", "in_ids", "k")
    name = f"rows_xorts {TYPES[dtype]} {buckets} buckets"
    return Compilation(name, xorts_kernel, kinds, constexprs, _XORTS_WARPS, 1, divisible)


def _dense_compilation(dtype: torch.dtype) -> Compilation:
    constexprs = {"TOKENS": TOKENS, "ROWS": _SIGN_ROWS, "LEVELS": _COLUMN_LEVELS}
    pointers = {"grad_out": TYPES[dtype], "ids": "*i64", "cu_seqlens": "*i64", "partials": "*fp32"}
    numbers = ("samples", "tokens", "vocabulary", "width", "stride", "padding", "key", "k")
    kinds = pointers | dict.fromkeys(numbers, "i32") | {"key": "i64"} | dict.fromkeys(constexprs, "constexpr")
    divisible = (*pointers, "width", "stride", "k")
    return Compilation(f"rows_dense {TYPES[dtype]}", dense_kernel, kinds, constexprs, _DENSE_WARPS, 1, divisible)
