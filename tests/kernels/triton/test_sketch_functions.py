"""What the sketching kernels share, against the philox and signs ops and the tables of sjlt."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from adaptinf_kernels import Sketch
from adaptinf_kernels.philox.api import philox
from adaptinf_kernels.signs.ops import OP as SIGNS
from adaptinf_kernels.sketch import tables, triton_philox, triton_sjlt
from adaptinf_kernels.sketch.definition import philox_key

KEYS = (0, 5, 2**63 - 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF)


@triton.jit
def words(out, key, start, word2, word3, N: tl.constexpr):
    i = tl.arange(0, N)
    w0, w1, w2, w3 = triton_philox.philox(key, start.to(tl.int64) + i, word2, word3)
    tl.store(out + i * 4, w0.to(tl.int64))
    tl.store(out + i * 4 + 1, w1.to(tl.int64))
    tl.store(out + i * 4 + 2, w2.to(tl.int64))
    tl.store(out + i * 4 + 3, w3.to(tl.int64))


@triton.jit
def signs(out, key, domain, row0, column0, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    ones = tl.full((ROWS, COLUMNS), 1.0, tl.float32)
    block = triton_philox.signed_tile(ones, key, domain, row0, column0, ROWS, COLUMNS)
    tl.store(out + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :], block)


@triton.jit
def fold(x, out, key, row0, column0, t, P: tl.constexpr, Q: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    block = tl.load(x + tl.arange(0, BM)[:, None] * BN + tl.arange(0, BN)[None, :])
    folded = triton_sjlt.fold(block, key, row0, column0, t, P, Q, BM, BN)
    row, column = triton_sjlt.block_place(tl.arange(0, P * Q), Q)
    tl.store(out + row * Q + column, folded)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("start", [0, 2**31 - 7, 2**32 - 5, 2**40])
def test_philox_is_the_op(key: int, start: int) -> None:
    out = torch.empty(32, 4, dtype=torch.int64)
    words[(1,)](out, triton_philox.key_argument(key), start, 2**32 - 1, 513, N=32)
    expected = philox(key, start, 32, word2=2**32 - 1, word3=513, impl="reference")
    assert torch.equal(out, expected)


@pytest.mark.parametrize(("row0", "column0"), [(0, 0), (40, 96), (2**20, 2**20 + 32)])
def test_signs_are_the_op(row0: int, column0: int) -> None:
    out = torch.empty(16, 256)
    signs[(1,)](out, triton_philox.key_argument(KEYS[3]), 514, row0, column0, ROWS=16, COLUMNS=256)
    expected = SIGNS("reference", KEYS[3], 514, row0, 16, column0, 256, out.device)
    assert torch.equal(out, expected.float())


@pytest.mark.parametrize(
    ("sketch", "size"),
    [
        (Sketch("sjlt", 64, seed=1), (16, 32)),
        (Sketch("sjlt", 512, nonzeros=2), (64, 64)),
        (Sketch("sjlt", 128), (8, 128)),
        (Sketch("sjlt", 256, nonzeros=4), (32, 32)),
        (Sketch("sjlt", 1024), (32, 32)),
    ],
    ids=str,
)
def test_a_folded_block_is_the_table_times_the_block(sketch: Sketch, size: tuple[int, int]) -> None:
    (p, q), (height, width) = sketch.tile, size
    row0, column0, t = 3 * height, 5 * width, sketch.nonzeros - 1
    x, out = torch.randn(size), torch.empty(p * q)
    key = triton_philox.key_argument(philox_key(sketch.seed, "w"))
    fold[(1,)](x, out, key, row0, column0, t, P=p, Q=q, BM=height, BN=width)
    codes = tables.sjlt_codes(sketch, "w", range(row0, row0 + height), range(column0, column0 + width), x.device)[t]
    place, sign = codes % sketch.k - t * p * q, 1 - 2 * (codes // sketch.k)
    expected = torch.zeros(p * q, dtype=torch.float64).index_add_(0, place, x.flatten().double() * sign)
    bound = x.numel() // (p * q) * torch.finfo(torch.float32).eps * x.abs().max()
    assert (out - expected).abs().max() <= bound
