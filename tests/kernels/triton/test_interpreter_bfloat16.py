"""The interpreter's bfloat16, repaired, against torch's."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

N = 32
BITS = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)  # every bfloat16


@triton.jit
def matmul(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at), out_dtype=tl.float32))


@triton.jit
def arithmetic(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n, other=0.0)
    b = tl.load(y + i, mask=i < n, other=1.0)
    tl.store(out + i, a * b + a - b, mask=i < n)
    tl.store(out + n + i, tl.where(a < b, -a, tl.maximum(b, tl.full((BLOCK,), 0.3, tl.bfloat16))), mask=i < n)


@triton.jit
def reductions(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + i[None, :])
    tl.store(out + i, tl.max(a, 1).to(tl.bfloat16))
    tl.store(out + N + i, tl.sum(a.to(tl.float32), 1).to(tl.bfloat16))
    tl.store(out + 2 * N + i, tl.argmin(a, 1).to(tl.bfloat16))


@triton.jit
def convert(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n).to(out.dtype.element_ty), mask=i < n)


@triton.jit
def bits(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    flipped = tl.load(x + i, mask=i < n).to(tl.uint16, bitcast=True) ^ 0x8000
    tl.store(out + i, flipped.to(tl.bfloat16, bitcast=True), mask=i < n)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_dot() -> None:
    x, y, out = torch.randn(N, N).bfloat16(), torch.randn(N, N).bfloat16(), torch.empty(N, N)
    matmul[(1,)](x, y, out, N=N)
    torch.testing.assert_close(out.double(), x.double() @ y.double(), rtol=1e-5, atol=1e-5)


def test_elementwise_rounds_after_each_operation() -> None:
    x, y, out = torch.randn(500).bfloat16(), torch.randn(500).bfloat16(), torch.empty(2, 500, dtype=torch.bfloat16)
    arithmetic[(2,)](x, y, out, 500, BLOCK=256)
    same(out[0], x * y + x - y)
    same(out[1], torch.where(x < y, -x, torch.maximum(y, torch.tensor(0.3).bfloat16())))


def test_reductions() -> None:
    x, out = torch.randn(N, N).bfloat16(), torch.empty(3, N, dtype=torch.bfloat16)
    reductions[(1,)](x, out, N=N)
    same(out[0], x.amax(1))
    torch.testing.assert_close(out[1], x.float().sum(1).bfloat16())
    same(out[2], x.argmin(1).bfloat16())


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16, torch.int32], ids=str)
@pytest.mark.parametrize("target", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_casts_round_to_nearest_even(source: torch.dtype, target: torch.dtype) -> None:
    ties = (BITS.view(torch.int16).int() << 16) + torch.tensor([[0], [0x7FFF], [0x8000], [0x8001]], dtype=torch.int32)
    values = ties.view(torch.float32).flatten()
    values = values[values.isfinite()] if source != torch.int32 else values.view(torch.int32)
    if source == torch.float16 or target == torch.float16:
        values = values[values.abs() < 60000]
    x = torch.cat([values.to(source), torch.tensor([0.0, -0.0, 1e-40, 3e-39, 1.0]).to(source)])
    out = torch.empty(len(x), dtype=target)
    convert[(triton.cdiv(len(x), 65536),)](x, out, len(x), BLOCK=65536)
    same(out, x.to(target))


def test_not_a_number_and_infinity_stay() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.4e38])
    out = torch.empty(4, dtype=torch.bfloat16)
    convert[(1,)](x, out, 4, BLOCK=4)
    same(out, x.bfloat16())


def test_bit_patterns() -> None:
    out = torch.empty_like(BITS)
    bits[(1,)](BITS, out, len(BITS), BLOCK=65536)
    assert torch.equal(out.view(torch.int16), BITS.view(torch.int16) ^ -32768)
