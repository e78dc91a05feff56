# pyright: reportGeneralTypeIssues=false
"""Walsh-Hadamard transforms inside Triton kernels, as products with two small matrices of +-1.

Tensor cores multiply such a matrix, which is exact in bfloat16, with a float32 that is cut into three bfloat16, which
hold all of its 24 bits: only the sums round.
"""

from __future__ import annotations

import triton
import triton.language as tl

LEAST = 16
"""The side of the smallest matrix product."""


def sides(k: int) -> tuple[int, int]:
    """(K1, K2) with ``H_k = H_K1 (x) H_K2``, each at least 16; (1, k) where k has no two such factors."""
    if k < LEAST**2:
        return 1, k
    first = 1 << (k.bit_length() - 1) // 2
    return first, k // first


@triton.jit
def _hadamard(SIDE: tl.constexpr):
    """bfloat16 [SIDE, SIDE], up to 256: -1 where i AND j has an odd number of bits."""
    bits = tl.arange(0, SIDE)[:, None] & tl.arange(0, SIDE)[None, :]
    bits ^= bits >> 4
    bits ^= bits >> 2
    bits ^= bits >> 1
    return tl.where((bits & 1) == 0, 1.0, -1.0).to(tl.bfloat16)


@triton.jit
def _leading(values):
    """float32 with the 8 highest bits of each significand, which bfloat16 holds."""
    return (values.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)


@triton.jit
def _times_hadamard(values, ROWS: tl.constexpr, SIDE: tl.constexpr):
    """float32 [ROWS, SIDE] ``values @ H``; the smallest parts are added first."""
    matrix = _hadamard(SIDE)
    high = _leading(values)
    rest = values - high
    middle = _leading(rest)
    sums = tl.zeros((ROWS, SIDE), tl.float32)
    sums = tl.dot((rest - middle).to(tl.bfloat16), matrix, sums, out_dtype=tl.float32)
    sums = tl.dot(middle.to(tl.bfloat16), matrix, sums, out_dtype=tl.float32)
    return tl.dot(high.to(tl.bfloat16), matrix, sums, out_dtype=tl.float32)


@triton.jit
def walsh_hadamard(values, ROWS: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr):
    """Transforms of float32 [ROWS, K1 * K2], as [ROWS * K2, K1]: number ``i K2 + j`` of a row is at ``j K1 + i``."""
    values = _times_hadamard(values.reshape(ROWS * K1, K2), ROWS * K1, K2)
    if K1 > 1:
        values = values.reshape(ROWS, K1, K2).permute(0, 2, 1).reshape(ROWS * K2, K1)
        values = _times_hadamard(values, ROWS * K2, K1)
    return values.reshape(ROWS * K2, K1)


@triton.jit
def transposed(number, K1: tl.constexpr, K2: tl.constexpr):
    """Where :func:`walsh_hadamard` puts a number of a row."""
    return number % K2 * K1 + number // K2
