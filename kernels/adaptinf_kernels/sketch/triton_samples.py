"""Programs that each take some tokens of one sample, without the host knowing where samples begin."""

from __future__ import annotations

import triton
import triton.language as tl

_BOUNDS = tl.constexpr(256)


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
