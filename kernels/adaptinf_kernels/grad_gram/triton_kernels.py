"""Gram tiles, and their sums per pair of samples.

An exchange of the two samples changes no bit: a product ``x_t . y_u`` commutes, a tile is added to its transpose before
it is summed, and the sums over tiles are taken both ways.
"""

from __future__ import annotations

import triton
import triton.language as tl
from adaptinf_kernels._triton import Compilation

BLOCK, SUM_BLOCK, STAGES = 64, 64, 3
"""Tokens of a tile, tiles summed side by side."""

STEP = {"fp32": 32, "fp16": 64, "bf16": 64}
WARPS = {"fp32": 8, "fp16": 4, "bf16": 4}
PRECISION = {"fp32": "ieee", "fp16": "tf32", "bf16": "tf32"}
"""Of ``tl.dot``, where it matters for float32 alone: it is not rounded to tf32."""


@triton.jit
def _products(
    x, y, x_stride, y_stride, rows, row_live, columns, column_live, width, STEP: tl.constexpr, PRECISION: tl.constexpr
):
    """x_t . y_u for the tokens t and u of two tiles."""
    products = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for start in range(0, width, STEP):
        entries = start + tl.arange(0, STEP)
        inside = entries < width
        left = tl.load(
            x + rows[:, None] * x_stride + entries[None, :], mask=row_live[:, None] & inside[None, :], other=0.0
        )
        right = tl.load(
            y + columns[None, :] * y_stride + entries[:, None], mask=column_live[None, :] & inside[:, None], other=0.0
        )
        products = tl.dot(left, right, products, input_precision=PRECISION, out_dtype=tl.float32)
    return products


@triton.jit
def gram_tiles(
    x, g, tiles, y, h, other_tiles, partial, x_stride, g_stride, y_stride, h_stride, d_in, d_out, n_columns,
    SAME: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr, X_PRECISION: tl.constexpr, G_PRECISION: tl.constexpr,
):  # fmt: skip
    """partial[i, j] = the sum of (x_t . y_u) (g_t . h_u) over the tokens t of tile i and u of other tile j."""
    i = tl.program_id(0) // n_columns
    j = tl.program_id(0) % n_columns
    first, last = tl.load(tiles + 2 * i), tl.load(tiles + 2 * i + 1)
    other_first, other_last = tl.load(other_tiles + 2 * j), tl.load(other_tiles + 2 * j + 1)
    if (first >= last) | (other_first >= other_last):
        return
    if SAME and i > j:
        return
    rows, columns = first + tl.arange(0, BLOCK), other_first + tl.arange(0, BLOCK)
    row_live, column_live = rows < last, columns < other_last
    product = _products(x, y, x_stride, y_stride, rows, row_live, columns, column_live, d_in, STEP, X_PRECISION)
    product *= _products(g, h, g_stride, h_stride, rows, row_live, columns, column_live, d_out, STEP, G_PRECISION)
    product = tl.where(row_live[:, None] & column_live[None, :], product, 0.0)  # infinity times no token is NaN
    total = 0.5 * tl.sum(product + tl.trans(product))
    tl.store(partial + i.to(tl.int64) * n_columns + j, total)
    if SAME:
        tl.store(partial + j.to(tl.int64) * n_columns + i, total)


@triton.jit
def _sum_tiles(partial, row_stride, column_stride, first, last, other_first, other_last, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(first, last):
        for start in range(other_first, other_last, BLOCK):
            j = start + tl.arange(0, BLOCK)
            total += tl.load(partial + i * row_stride + j * column_stride, mask=j < other_last, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def gram_sums(partial, bounds, other_bounds, out, n_columns, n_samples, BLOCK: tl.constexpr):
    """out[b, c] = the sum over the tiles of sample b and of other sample c."""
    b = tl.program_id(0) // n_samples
    c = tl.program_id(0) % n_samples
    first, last = tl.load(bounds + b), tl.load(bounds + b + 1)
    other_first, other_last = tl.load(other_bounds + c), tl.load(other_bounds + c + 1)
    forth = _sum_tiles(partial, n_columns, 1, first, last, other_first, other_last, BLOCK)
    back = _sum_tiles(partial, 1, n_columns, other_first, other_last, first, last, BLOCK)
    tl.store(out + b.to(tl.int64) * n_samples + c, 0.5 * (forth + back))


def compilations() -> list[Compilation]:
    signature = {
        **dict.fromkeys(("tiles", "other_tiles"), "*i64"),
        "partial": "*fp32",
        **dict.fromkeys(("x_stride", "g_stride", "y_stride", "h_stride", "d_in", "d_out", "n_columns"), "i32"),
        **dict.fromkeys(("SAME", "BLOCK", "STEP", "X_PRECISION", "G_PRECISION"), "constexpr"),
    }
    found = [
        Compilation(
            f"gram_tiles, {dtype}",
            gram_tiles,
            {**dict.fromkeys(("x", "g", "y", "h"), f"*{dtype}"), **signature},
            {"SAME": True, "BLOCK": BLOCK, "STEP": STEP[dtype], "X_PRECISION": precision, "G_PRECISION": precision},
            WARPS[dtype],
            STAGES,
            ("x", "g", "y", "h", "tiles", "other_tiles", "partial", "x_stride", "g_stride", "y_stride", "h_stride",
             "d_in", "d_out"),
        )
        for dtype, precision in PRECISION.items()
    ]  # fmt: skip
    signature = {
        **dict.fromkeys(("partial", "out"), "*fp32"),
        **dict.fromkeys(("bounds", "other_bounds"), "*i64"),
        **dict.fromkeys(("n_columns", "n_samples"), "i32"),
        "BLOCK": "constexpr",
    }
    return [*found, Compilation("gram_sums", gram_sums, signature, {"BLOCK": SUM_BLOCK}, 1, 1)]
