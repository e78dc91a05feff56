"""Philox4x32-10 and the signs: published vectors, frozen vectors, and every implementation bit for bit."""

from __future__ import annotations

import hashlib

import pytest
import torch
from adaptinf_kernels import NotSupportedError, signs
from adaptinf_kernels._native import build_info, native, view
from adaptinf_kernels.philox.api import philox
from adaptinf_kernels.philox.reference import philox4x32
from adaptinf_kernels.sketch.definition import philox_key

ALL_ONES = 2**32 - 1
# counter, key, result: the file kat_vectors of Random123
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL_ONES,) * 4, (ALL_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
LEVELS = build_info().get("cpu", {}).get("levels", [])


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_reference_gives_the_published_vectors(counter: tuple, key: tuple, expected: tuple) -> None:
    words = philox4x32([torch.tensor(word) for word in counter], key[0] | key[1] << 32)
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_native_gives_the_published_vectors(level: str, counter: tuple, key: tuple, expected: tuple) -> None:
    out = torch.empty(1, 4, dtype=torch.int64)
    start = counter[0] | counter[1] << 32
    native().philox_words(key[0] | key[1] << 32, start, counter[2], counter[3], view(out), 0, level)
    assert tuple(out[0].tolist()) == expected


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1000])
@pytest.mark.parametrize("start", [0, 2**32 - 5, 2**62 + 3])
def test_words_of_every_instruction_set(level: str, count: int, start: int) -> None:
    out = torch.empty(count, 4, dtype=torch.int64)
    native().philox_words(2**64 - 7, start, 9, ALL_ONES, view(out), 0, level)
    assert torch.equal(out, philox(2**64 - 7, start, count, word2=9, word3=ALL_ONES, impl="reference"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [range(1), range(3, 8), range(2**32 - 2, 2**32), range(5, 5)])
@pytest.mark.parametrize(
    "columns",
    [range(1), range(127), range(128), range(1, 130), range(2047, 2050), range(5000), range(2**40 + 77, 2**40 + 3077)],
    ids=str,
)
def test_signs_of_every_instruction_set(level: str, rows: range, columns: range) -> None:
    out = torch.empty(len(rows), len(columns), dtype=torch.int8)
    native().philox_signs(philox_key(5, "w"), 2, rows.start, columns.start, view(out), 0, level)
    assert torch.equal(out, signs(5, "w", rows, columns, domain=2, impl="reference"))
    assert torch.equal(out, signs(5, "w", rows, columns, domain=2, impl="native"))


def test_native_writes_nothing_outside_its_view() -> None:
    whole = torch.full((9, 400), 77, dtype=torch.int8)
    inner = whole[2:7, 33:290]
    native().philox_signs(1, 0, 0, 5, view(inner), 0)
    outside = torch.ones_like(whole, dtype=torch.bool)
    outside[2:7, 33:290] = False
    assert (whole[outside] == 77).all()
    assert (inner.abs() == 1).all()


def test_signs_as_defined_bit_by_bit() -> None:
    key, row, columns = philox_key(3, "layer.weight"), 6, range(250, 270)
    block = signs(3, "layer.weight", range(row, row + 1), columns)
    for position, column in enumerate(columns):
        counter = [torch.tensor(word) for word in (column // 128, 0, row, 0)]
        word = int(philox4x32(counter, key)[column % 128 // 32])
        assert block[0, position] == (-1 if word >> (column % 32) & 1 else 1)


def test_any_block_is_a_piece_of_the_same_matrix() -> None:
    whole = signs(0, "w", 20, 1000)
    assert torch.equal(whole[3:11, 100:777], signs(0, "w", range(3, 11), range(100, 777)))


def test_frozen_vectors() -> None:
    """A change here changes every stored feature: then ``LAYOUT`` must change too."""
    assert philox_key(0, "") == 0x4D5EF16AFEBB0B83
    assert philox_key(2**63 - 1, "model.layers.0.mlp.up_proj.weight") == 0x44CEEED3F8D5EE23
    digest = hashlib.sha256(signs(1, "w", 64, 1000).numpy().tobytes()).hexdigest()
    assert digest == "74e38949850a6a0574ef73667813b32cb2242b9fc539717f296a17f79769a537"


def test_signs_are_fair_and_independent() -> None:
    """Mean of n fair signs: standard error 1/sqrt(n); five of them are allowed."""
    a = signs(0, "a", 256, 4096).double()
    for other in (
        torch.ones(1),
        signs(0, "b", 256, 4096),
        signs(1, "a", 256, 4096),
        signs(0, "a", 256, 4096, domain=1),
    ):
        assert (a * other).mean().abs() < 5 / a.numel() ** 0.5
    assert (a @ a.T / 4096 - torch.eye(256)).abs().max() < 6 / 4096**0.5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63}, "seed="),
        ({"rows": -1}, "rows=-1"),
        ({"rows": range(2**32 + 1)}, "rows="),
        ({"rows": range(0, 4, 2)}, "rows="),
        ({"columns": range(-1, 3)}, "columns="),
        ({"domain": 2**32}, "domain="),
        ({"impl": "fast"}, "fast"),
    ],
)
def test_impossible_arguments(arguments: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        signs(**{"seed": 0, "name": "w", "rows": 2, "columns": 2, **arguments})


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (2**64, 0, 1), (0, -1, 1), (0, 0, -1), (0, 2**63 - 1, 1)])
def test_impossible_counters(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"key=|counters"):
        philox(*arguments)


def test_an_explicit_choice_never_falls_back() -> None:
    with pytest.raises(NotSupportedError, match="no such implementation, only native, reference") as caught:
        signs(0, "w", 2, 2, impl="triton")
    assert caught.value.reasons


@pytest.mark.gpu
def test_cuda_gives_the_same_bits() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for rows, columns in (
        (3, range(7, 5000)),
        (1000, range(128)),
        (range(2**32 - 2, 2**32), range(2**40 + 1, 2**40 + 900)),
    ):
        expected = signs(0, "w", rows, columns, impl="reference")
        for impl in ("native", "reference"):
            assert torch.equal(signs(0, "w", rows, columns, device="cuda", impl=impl).cpu(), expected)
    assert torch.equal(philox(1, 2**32 - 9, 999, device="cuda", impl="native").cpu(), philox(1, 2**32 - 9, 999))
