# pyright: reportGeneralTypeIssues=false
"""One slice of sjlt inside Triton kernels: a block of a weight, signed, turned and folded onto the rows of the slice.

A block [BM, BN] holds whole tiles [P, Q] of the weight (powers of two from 8 on). Numbers in *block order* come in
pieces of 8 x 8 entries: the order in which a warp writes and reads shared memory without meeting its own banks, both in
the layout of a matrix product's accumulators and turned by any number of rows and columns.
"""

from __future__ import annotations

import triton
import triton.language as tl
from adaptinf_kernels.sketch.triton_philox import philox, signed_tile

TURN = tl.constexpr(256)
"""Domain of the turns of slice 0, see ``sketch/README.md``."""

SIGN = tl.constexpr(512)
"""Domain of the signs of slice 0."""


@triton.jit
def block_place(e, COLUMNS: tl.constexpr):
    """Row and column of number ``e`` in block order, of a block of so many columns."""
    return e // (COLUMNS * 8) * 8 + e % 64 // 8, e // 64 % (COLUMNS // 8) * 8 + e % 8


@triton.jit
def turn(key, tile_row, tile_column, t, P: tl.constexpr, Q: tl.constexpr):
    """By how many rows and columns the tiles are turned in slice t; arguments broadcast."""
    w0, w1, _, _ = philox(key, tile_column, tile_row, t + TURN)
    return (w0.to(tl.uint64) * P >> 32).to(tl.int32), (w1.to(tl.uint64) * Q >> 32).to(tl.int32)


@triton.jit
def fold(
    block, key, row0, column0, t, P: tl.constexpr, Q: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Rows of slice t, [P * Q] in block order, that the float32 ``block`` [BM, BN] of a weight adds up to.

    It begins at (row0, column0), multiples of BM and BN; entries outside the weight must be zero.
    """
    block = signed_tile(block, key, t + SIGN, row0, column0, BM, BN)
    tile = tl.arange(0, (BM // P) * (BN // Q))
    a, b = turn(key, row0 // P + tile // (BN // Q), column0 // Q + tile % (BN // Q), t, P, Q)
    row, column = block_place(tl.arange(0, BM * BN), BN)
    if BM * BN > P * Q:  # a look-up: few Philox words, many entries
        ab = tl.gather(a * Q + b, row // P * (BN // Q) + column // Q, 0)
        a, b = ab // Q, ab % Q
    row = row // P * P + ((row - a) & (P - 1))
    column = column // Q * Q + ((column - b) & (Q - 1))
    source = (row // 8 * (BN // 8) + column // 8) * 64 + row % 8 * 8 + column % 8
    flat = block.reshape(BM // 8, 8, BN // 8, 8).trans(0, 2, 1, 3).reshape(BM * BN)
    turned = tl.gather(flat, source, 0).reshape(BM // P, P // 8, BN // Q, Q * 8)
    return tl.sum(tl.sum(turned, 2), 0).reshape(P * Q)
