# pyright: reportGeneralTypeIssues=false
"""sjlt of gradients in memory: runs of a weight's entries turned as they are loaded, and added by exact products."""

from __future__ import annotations

import triton
import triton.language as tl
from adaptinf_kernels.sketch.triton_philox import sign_word
from adaptinf_kernels.sketch.triton_sjlt import SIGN, turn


@triton.jit
def turned_runs(key, row, tile, t, P: tl.constexpr, Q: tl.constexpr):
    """How slice t takes runs of Q entries, those of ``row`` [n] in the tiles' columns ``tile`` [n].

    Gives the rows of the slice that the runs are added to [n], and for every place in such a row [n, Q] the entry of
    the run that comes there and, in the highest bit, whether its sign changes.
    """
    a, b = turn(key, row // P, tile, t, P, Q)
    column = (tl.arange(0, Q)[None, :] - b[:, None]) & (Q - 1)
    word = (column * 0).to(tl.uint32)
    for m in tl.static_range(Q // 32):
        candidate = sign_word(key, t + SIGN, row, tile * (Q // 32) + m)
        word = tl.where(column // 32 == m, candidate[:, None], word)
    return (row + a) & (P - 1), column, (word << (31 - column % 32).to(tl.uint32)) & 0x80000000


@triton.jit
def flipped(values, flip):
    """``values`` with their signs changed where the highest bit of ``flip`` is set."""
    if values.dtype == tl.float32:
        bits = values.to(tl.uint32, bitcast=True) ^ flip
    else:
        bits = values.to(tl.uint16, bitcast=True) ^ (flip >> 16).to(tl.uint16)
    return bits.to(values.dtype, bitcast=True)


@triton.jit
def multiply(exact, values, sums, CUT: tl.constexpr):
    """``sums + exact @ values``, with ``exact`` of -1, 0 and 1; float32 values are cut in three."""
    if CUT:
        high = (values.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
        rest = values - high
        middle = (rest.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
        exact = exact.to(tl.bfloat16)
        sums = tl.dot(exact, (rest - middle).to(tl.bfloat16), sums, out_dtype=tl.float32)
        sums = tl.dot(exact, middle.to(tl.bfloat16), sums, out_dtype=tl.float32)
        return tl.dot(exact, high.to(tl.bfloat16), sums, out_dtype=tl.float32)
    return tl.dot(exact.to(values.dtype), values, sums, out_dtype=tl.float32)
