# pyright: reportGeneralTypeIssues=false
"""Philox words, and the signs made of them, inside Triton kernels: bit for bit those of ``philox`` and ``signs``."""

from __future__ import annotations

import triton
import triton.language as tl


def key_argument(key: int) -> int:
    """A 64-bit Philox key as the signed number that a kernel takes, so that every key has one type."""
    return key - (1 << 64) if key >> 63 else key


@triton.jit
def philox(key, number, word2, word3):
    """The four uint32 words at counter ``(number mod 2^32, number div 2^32, word2, word3)``; integers, broadcast."""
    number = number.to(tl.uint64)
    low = (number & 0xFFFFFFFF).to(tl.uint32)
    zero = low * 0  # makes tensors of constants
    return tl.philox(key, low, (number >> 32).to(tl.uint32), (zero + word2).to(tl.uint32), (zero + word3).to(tl.uint32))


@triton.jit
def sign_word(key, domain, row, word):
    """Signs of columns ``32 word`` to ``32 word + 31`` of a row of a sign matrix: bit i is set where the i-th is -1."""
    w0, w1, w2, w3 = philox(key, word // 4, row, domain)
    place = word % 4
    return tl.where(place < 2, tl.where(place == 0, w0, w1), tl.where(place == 2, w2, w3))


@triton.jit
def sign_bits(key, domain, rows, block, ROWS: tl.constexpr):
    """uint32 [ROWS, 128]: 1 where a sign matrix has -1 in columns ``128 block`` on; one Philox call a row."""
    w0, w1, w2, w3 = philox(key, block, rows, domain)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3)).reshape(ROWS, 4, 1)
    return ((words >> tl.arange(0, 32).to(tl.uint32)[None, None, :]) & 1).reshape(ROWS, 128)


@triton.jit
def signed(values, word, column):
    """float32 ``values``, negated where the bit of ``column`` in its sign word is set."""
    flip = (word << (31 - column % 32).to(tl.uint32)) & 0x80000000
    return (values.to(tl.uint32, bitcast=True) ^ flip).to(tl.float32, bitcast=True)


@triton.jit
def signed_tile(values, key, domain, row0, column0, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A float32 tile [ROWS, COLUMNS] times the signs from (row0, column0) on; both column numbers multiples of 32."""
    rows = row0 + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    words = sign_word(key, domain, rows[:, None], column0 // 32 + tl.arange(0, COLUMNS // 32)[None, :])
    words = tl.broadcast_to(words[:, :, None], (ROWS, COLUMNS // 32, 32)).reshape(ROWS, COLUMNS)
    return signed(values, words, columns[None, :])
