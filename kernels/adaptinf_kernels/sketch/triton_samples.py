"""Programs that each take some tokens of one sample, without the host knowing where samples begin, and their sums."""

from __future__ import annotations

import triton
import triton.language as tl
from adaptinf_kernels._triton import Compilation, launch
from torch import Tensor

TOKENS = 32
"""Tokens of a program that leaves numbers for :func:`add_slots`."""

_BOUNDS, _NUMBERS = tl.constexpr(256), 256


def slots(tokens: int, samples: int, block: int) -> int:
    """Programs of ``block`` tokens that are enough for any samples of so many tokens together."""
    return tokens // block + samples


@triton.jit
def tokens_of_slot(cu_seqlens, samples, tokens, slot, BLOCK: tl.constexpr):
    """(first, last) token of a program: blocks are counted from each sample's first token; empty for some programs.

    Sample b, from s to e, has the programs from ``s div BLOCK + b`` on: enough, whatever s.
    """
    begun = 0
    for first in range(0, samples, _BOUNDS):
        sample = first + tl.arange(0, _BOUNDS)
        start = tl.load(cu_seqlens + sample, mask=sample < samples, other=0).to(tl.int64)
        begun += tl.sum(((sample < samples) & (start // BLOCK + sample <= slot)).to(tl.int32))
    sample = tl.maximum(begun - 1, 0)
    start = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample).to(tl.int64), 0), tokens)
    stop = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample + 1).to(tl.int64), start), tokens)
    first = start + tl.maximum(slot - start // BLOCK - sample, 0) * BLOCK
    return first, tl.minimum(first + BLOCK, stop)


@triton.jit(do_not_specialize=["tokens", "parts"])
def add_slots_kernel(
    partials, cu_seqlens, out, tokens, k, parts, TOKENS: tl.constexpr, NUMBERS: tl.constexpr
):  # fmt: skip
    """``out[b]``: the sum of the partials of sample b's slots and their parts, in order; program (b, numbers)."""
    sample, number = tl.program_id(0).to(tl.int64), tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    start = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample).to(tl.int64), 0), tokens)
    stop = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample + 1).to(tl.int64), start), tokens)
    terms = ((stop - start + TOKENS - 1) // TOKENS * parts).to(tl.int32)
    at = partials + (start // TOKENS + sample) * parts * k + number
    total = tl.zeros((NUMBERS,), tl.float32)
    for _ in range(terms):
        total += tl.load(at, mask=number < k, other=0.0)
        at += k
    tl.store(out + sample * k + number, total, mask=number < k)


def add_slots(partials: Tensor, cu_seqlens: Tensor, tokens: int) -> Tensor:
    """float32 [slots, parts, k] of programs of ``TOKENS`` tokens -> [B, k]."""
    samples, (_, parts, k) = len(cu_seqlens) - 1, partials.shape
    out = partials.new_empty(samples, k)
    if out.numel():
        launch(
            add_slots_kernel, (samples, -(-k // _NUMBERS)), partials, cu_seqlens, out, tokens, k, parts,
            TOKENS=TOKENS, NUMBERS=_NUMBERS, num_warps=4, num_stages=1,
        )  # fmt: skip
    return out


def compilations() -> list[Compilation]:
    """The specialisation of :func:`add_slots` where k is a multiple of 16."""
    constexprs = {"TOKENS": TOKENS, "NUMBERS": _NUMBERS}
    signature = {"partials": "*fp32", "cu_seqlens": "*i64", "out": "*fp32"}
    signature |= dict.fromkeys(("tokens", "k", "parts"), "i32") | dict.fromkeys(constexprs, "constexpr")
    pointers = ("partials", "cu_seqlens", "out", "k")
    return [Compilation("add_slots", add_slots_kernel, signature, constexprs, 4, 1, pointers)]
