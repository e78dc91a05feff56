"""The gates let right results through and nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.gate import Close, Equal, Unbiased, gram, relative_error


@pytest.fixture
def matrices() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(12, 12, generator=generator, dtype=torch.float64) for _ in range(2))


def close(matrices, **more) -> Close:
    a, b = matrices
    return Close(
        lambda: {"value": a @ b},
        lambda: {"value": torch.stack([(row[:, None] * b.float()).sum(0) for row in a.float()])},
        required=["value"],
        **more,
    )


def test_an_honest_product_passes(matrices) -> None:
    a, b = matrices
    verdict = close(matrices).check({"value": a.float() @ b.float()})
    assert verdict.passed
    assert 0 < verdict.error <= verdict.tolerance < 1e-5


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value.index_put((torch.tensor(3), torch.tensor(5)), value[3, 5] + 1e-4),  # one entry
        lambda value: value * (1 + 3e-6),  # a scale
        lambda value: value.flip(0),  # samples swapped
        lambda value: value.T,
        lambda value: value.bfloat16(),
        lambda value: value.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(math.nan)),
        lambda value: value.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(math.inf)),
        lambda value: value[:-1],
        torch.zeros_like,
    ],
)
def test_every_kind_of_wrong_product_fails(matrices, spoil) -> None:
    a, b = matrices
    assert not close(matrices).check({"value": spoil(a.float() @ b.float())}).passed


def test_a_missing_output_fails_and_is_named(matrices) -> None:
    verdict = close(matrices).check({"other": matrices[0]})
    assert not verdict.passed
    assert "value" in verdict.what


def test_the_worst_output_is_reported() -> None:
    gate = Close(
        lambda: {"a": torch.ones(3, 3), "b": torch.ones(3)},
        lambda: {"a": torch.ones(3, 3), "b": torch.ones(3)},
        required=["a", "b"],
    )
    assert gate.check({"a": torch.ones(3, 3), "b": torch.full((3,), 1.5)}).what == "b"
    assert gate.check({"a": torch.full((3, 3), 1.5), "b": torch.ones(3)}).what == "a"


def test_errors_are_those_of_the_worst_row() -> None:
    expected = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 0.0]])
    value = expected + torch.tensor([[0.0, 0.5], [0.0, 0.5], [0.0, 0.0]])
    assert relative_error(value, expected) == pytest.approx(0.1)
    assert relative_error(expected, expected) == 0
    value[2, 0] = 1e-9
    assert relative_error(value, expected) == math.inf  # an empty sample must give exact zeros
    assert relative_error(torch.zeros(0, 4), torch.zeros(0, 4)) == 0


def test_references_are_computed_once_and_only_when_needed(matrices) -> None:
    calls = []
    gate = Close(lambda: calls.append("exact") or {"v": matrices[0]}, lambda: {"v": matrices[0]}, required=["v"])
    assert calls == []
    gate.check({"v": matrices[0]})
    gate.check({"v": matrices[0]})
    assert calls == ["exact"]


def test_equal_wants_the_same_bits() -> None:
    gate = Equal(lambda: {"value": torch.ones(4)})
    assert gate.check({"value": torch.ones(4)}).passed
    assert not gate.check({"value": torch.tensor([1, 1, 1, 1 + 2**-23])}).passed
    assert not gate.check({}).passed


@pytest.mark.parametrize("seed", range(5))
def test_unbiased_accepts_any_sign_matrix(seed: int) -> None:
    torch.manual_seed(seed)
    gradients, signs = torch.randn(8, 500), torch.randn(500, 256).sign_()
    gate = Unbiased(lambda: gram([gradients[:, :200], gradients[:, 200:]]), scale=256**-0.5)
    assert gate.check({"features": gradients @ signs}).passed


@pytest.mark.parametrize(
    "spoil",
    [
        torch.zeros_like,
        lambda z: z * 2,
        lambda z: z.index_put((torch.tensor(3),), torch.tensor(0.0)),  # one sample lost
        lambda z: z.roll(1, 0),
        lambda z: z[:, :1].expand(-1, 256),  # one random number instead of 256
        lambda z: z * math.nan,
        lambda z: z[:-1],
    ],
)
def test_unbiased_refuses(spoil) -> None:
    torch.manual_seed(0)
    gradients = torch.randn(8, 500) * torch.arange(1, 9)[:, None]
    z = gradients @ torch.randn(500, 256).sign_()
    assert not Unbiased(lambda: gram([gradients]), scale=256**-0.5).check({"features": spoil(z)}).passed
