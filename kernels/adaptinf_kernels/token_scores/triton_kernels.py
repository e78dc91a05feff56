# pyright: reportGeneralTypeIssues=false
"""Triton kernels of the sweep over the vocabulary: two matrix products and the online softmax between them.

A slab of the head's rows is worked on at a time: ``head_logits`` gives its logits, ``online_softmax`` turns them into
``e^{l - m}`` and carries the statistics of each token on, ``accumulate`` adds their product with the slab's rows. Block
sizes follow from dtypes and the vocabulary alone, so that a token's numbers do not depend on how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from adaptinf_kernels._triton import Compilation

SLAB = 8192
"""Rows of the head whose logits are held at once; one program holds those of a token in registers."""

SOFTMAX_WARPS = 16


@dataclass(frozen=True)
class Blocks:
    """Block sizes of a matrix product, and how it is launched."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int

    def tiles(self, rows: int, columns: int) -> int:
        """How many blocks a product of that shape has."""
        return -(-rows // self.m) * -(-columns // self.n)


LOGITS = {2: Blocks(128, 256, 64, 8, 3), 4: Blocks(64, 64, 32, 4, 3)}
ACCUMULATE = {2: Blocks(128, 128, 64, 8, 4), 4: Blocks(64, 64, 16, 4, 4)}
"""By the bytes of an element of the head."""


@triton.jit
def _tile(count_m, count_n, M: tl.constexpr, N: tl.constexpr):
    """Row and column of this program's tile; neighbours in time share columns, eight tiles at a time."""
    tiles_m, tiles_n = tl.cdiv(count_m, M), tl.cdiv(count_n, N)
    group = tl.program_id(0) // (8 * tiles_n)
    height = tl.minimum(tiles_m - 8 * group, 8)
    inside = tl.program_id(0) % (8 * tiles_n)
    return 8 * group + inside % height, inside // height


@triton.jit(do_not_specialize=["tokens"])
def head_logits(
    hidden, weight, bias, logits, tokens, rows, width, hidden_stride, weight_stride, logits_stride,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Float32 logits [tokens, rows] = hidden [tokens, width] weight [rows, width]^T + bias [rows]."""
    tile_m, tile_n = _tile(tokens, rows, M, N)
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    first_m, first_n = tile_m * M, tile_n * N
    # Rows beyond the end repeat the last one instead of being masked; they are not stored.
    left = hidden + first_m.to(tl.int64) * hidden_stride
    left += tl.minimum(m, tokens - 1 - first_m)[:, None] * hidden_stride + k[None, :]
    right = weight + first_n.to(tl.int64) * weight_stride
    right += tl.minimum(n, rows - 1 - first_n)[None, :] * weight_stride + k[:, None]
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, width, K):
        inside = k < width - start
        a = tl.load(left, mask=inside[None, :], other=0.0)
        b = tl.load(right, mask=inside[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=tl.float32)
        left += K
        right += K
    if HAS_BIAS:
        total += tl.load(bias + first_n + n, mask=n < rows - first_n, other=0.0).to(tl.float32)[None, :]
    place = logits + first_m.to(tl.int64) * logits_stride + first_n
    stored = (m < tokens - first_m)[:, None] & (n < rows - first_n)[None, :]
    tl.store(place + (m[:, None] * logits_stride + n[None, :]), total, mask=stored)


@triton.jit(do_not_specialize=["tokens", "first"])
def online_softmax(
    logits, labels, statistics, exponentials, factors, tokens, first, rows, logits_stride, exponentials_stride,
    ROWS: tl.constexpr, SCALE: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """One token a program: its logits of vocabulary rows ``first`` on, the label's left out, join its statistics.

    statistics [5, tokens] float32: m = max l_v, with x_v = l_v - m the sums of e^x_v, e^x_v x_v and e^2x_v, and the
    label's logit. exponentials [tokens, rows] = SCALE e^x_v; factors [tokens] = what sums under the former m shrink by.
    """
    token, n = tl.program_id(0).to(tl.int64), tl.arange(0, ROWS)
    inside = n < rows
    logit = tl.load(logits + token * logits_stride + n, mask=inside, other=-float("inf")).to(tl.float32)
    label = tl.load(labels + token) - first
    is_label = n == label
    of_label = statistics + 4 * tokens.to(tl.int64) + token
    # A sum over one term; where the label is not in this slab, the logit that is there already stays.
    tl.store(of_label, tl.sum(tl.where(is_label, logit, 0.0)), mask=(label >= 0) & (label < rows))
    logit = tl.where(is_label, -float("inf"), logit)

    before = tl.load(statistics + token)
    peak = tl.maximum(before, tl.max(logit))
    shift = tl.where(peak == -float("inf"), 0.0, peak)
    x = logit - shift
    e = tl.exp(x)
    if STORE:
        stored = (e * SCALE).to(exponentials.dtype.element_ty)
        tl.store(exponentials + token * exponentials_stride + n, stored, mask=inside)
    step = tl.where(before == -float("inf"), 0.0, before - shift)
    factor = tl.where(before == -float("inf"), 0.0, tl.exp(step))
    tl.store(factors + token, factor)
    place = statistics + tokens.to(tl.int64) + token
    former, weighted = tl.load(place), tl.load(place + tokens)
    squares = tl.load(place + 2 * tokens.to(tl.int64))
    tl.store(statistics + token, peak)
    tl.store(place, factor * former + tl.sum(e))
    tl.store(place + tokens, factor * (weighted + step * former) + tl.sum(tl.where(e == 0, 0.0, e * x)))
    tl.store(place + 2 * tokens.to(tl.int64), factor * factor * squares + tl.sum(e * e))


@triton.jit(do_not_specialize=["tokens"])
def accumulate(
    exponentials, weight, factors, sums, tokens, rows, width, exponentials_stride, weight_stride, sums_stride,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Float32 sums [tokens, width] = factors [tokens] sums + exponentials [tokens, rows] weight [rows, width]."""
    tile_m, tile_n = _tile(tokens, width, M, N)
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    first_m, first_n = tile_m * M, tile_n * N
    left = exponentials + first_m.to(tl.int64) * exponentials_stride
    left += tl.minimum(m, tokens - 1 - first_m)[:, None] * exponentials_stride + k[None, :]
    right = weight + first_n + (k[:, None] * weight_stride + n[None, :])
    columns = (n < width - first_n)[None, :]
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, rows, K):
        inside = k < rows - start
        a = tl.load(left, mask=inside[None, :], other=0.0)
        b = tl.load(right, mask=inside[:, None] & columns, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=tl.float32)
        left += K
        right += K * weight_stride
    factor = tl.load(factors + first_m + m, mask=m < tokens - first_m, other=0.0)
    place = sums + first_m.to(tl.int64) * sums_stride + first_n + (m[:, None] * sums_stride + n[None, :])
    stored = (m < tokens - first_m)[:, None] & columns
    tl.store(place, tl.load(place, mask=stored, other=0.0) * factor[:, None] + total, mask=stored)


def exponent_scale(dtype: torch.dtype) -> float:
    """float16 has no small numbers: 2^15 keeps what is above 2e-12 of the largest exponential."""
    return 2.0**15 if dtype == torch.float16 else 1.0


def compilations() -> list[Compilation]:
    """What ``run`` launches for a head of each dtype with a width that 16 divides."""
    found = []
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        numbers = ("tokens", "rows", "width", "hidden_stride", "weight_stride", "logits_stride")
        blocks, pointer = LOGITS[dtype.itemsize], f"*{name}"
        for bias in (False, True):
            found.append(
                _matrix_product(
                    f"head_logits {name}{' bias' if bias else ''}",
                    head_logits,
                    {"hidden": pointer, "weight": pointer, "bias": pointer, "logits": "*fp32"},
                    numbers,
                    blocks,
                    {"HAS_BIAS": bias},
                )
            )
        numbers = ("tokens", "rows", "width", "exponentials_stride", "weight_stride", "sums_stride")
        tensors = {"exponentials": pointer, "weight": pointer, "factors": "*fp32", "sums": "*fp32"}
        found.append(
            _matrix_product(f"accumulate {name}", accumulate, tensors, numbers, ACCUMULATE[dtype.itemsize], {})
        )
        for store in (False, True):
            found.append(_softmax(name, dtype, store))
    return found


def _matrix_product(
    name: str,
    kernel: Any,
    tensors: dict[str, str],
    numbers: tuple[str, ...],
    blocks: Blocks,
    constexprs: dict[str, Any],
) -> Compilation:
    constexprs = {"M": blocks.m, "N": blocks.n, "K": blocks.k, **constexprs}
    signature = {**tensors, **dict.fromkeys(numbers, "i32"), **dict.fromkeys(constexprs, "constexpr")}
    divisible = (*tensors, *(number for number in numbers if number != "tokens"))
    return Compilation(name, kernel, signature, constexprs, blocks.num_warps, blocks.num_stages, divisible)


def _softmax(name: str, dtype: torch.dtype, store: bool) -> Compilation:
    tensors = {
        "logits": "*fp32",
        "labels": "*i64",
        "statistics": "*fp32",
        "exponentials": f"*{name}",
        "factors": "*fp32",
    }
    numbers = ("tokens", "first", "rows", "logits_stride", "exponentials_stride")
    constexprs = {"ROWS": SLAB, "SCALE": exponent_scale(dtype), "STORE": store}
    signature = {**tensors, **dict.fromkeys(numbers, "i32"), **dict.fromkeys(constexprs, "constexpr")}
    divisible = (*tensors, "rows", "logits_stride", "exponentials_stride")
    title = f"online_softmax {name}{'' if store else ' without exponentials'}"
    return Compilation(title, online_softmax, signature, constexprs, SOFTMAX_WARPS, 1, divisible)
