"""grad_gram by Triton, interpreted, against the gradients themselves."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import NotSupportedError, grad_gram

from tests.kernels.grad_gram_cases import LENGTHS, WIDTHS, check, samples

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_gradients_products(lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    ours = samples(lengths, (70, 33), dtype)
    found = grad_gram(*ours, impl="triton")
    check(found, ours, ours)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_other_samples(widths: tuple[int, int]) -> None:
    ours = samples((3, 0, 70), widths, torch.float32)
    others = samples((65, 1, 0, 64), widths, torch.float32, seed=1)
    check(grad_gram(*ours, other=others, impl="triton"), ours, others)


def test_any_strides() -> None:
    x, g, cu = samples((40, 60), (48, 20), torch.float32)
    expected = grad_gram(x, g, cu, impl="triton")
    padded = torch.zeros(100, 64)[:, :48].copy_(x)
    assert torch.equal(grad_gram(padded, g.T.contiguous().T, cu.int(), impl="triton"), expected)
    ones = torch.ones(1, 48).expand(100, 48)
    assert torch.equal(grad_gram(ones, g, cu, impl="triton"), grad_gram(ones.clone(), g, cu, impl="triton"))


def test_rows_far_apart() -> None:
    """Offsets beyond 2^31 elements; only the pages that are read are memory."""
    x, g, cu = samples((2, 1), (16, 16), torch.bfloat16)
    apart = torch.empty_strided((3, 16), (2**30 + 16, 1), dtype=torch.bfloat16).copy_(x)
    assert torch.equal(grad_gram(apart, g, cu, impl="triton"), grad_gram(x, g, cu, impl="triton"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_entry_depends_on_its_two_samples_alone(dtype: torch.dtype) -> None:
    """Neither on the others, nor on the order."""
    x, g, cu = samples((63, 130, 0, 1, 70), (70, 33), dtype)
    whole = grad_gram(x, g, cu, impl="triton")
    assert torch.equal(grad_gram(x, g, cu, other=(x, g, cu), impl="triton"), whole)
    for order in ([4, 0], [1, 1], [2, 4, 1, 3, 0]):
        tokens = torch.cat([torch.arange(cu[one], cu[one + 1]) for one in order])
        bounds = torch.tensor([0, *(int(cu[one + 1] - cu[one]) for one in order)]).cumsum(0)
        assert torch.equal(grad_gram(x[tokens], g[tokens], bounds, impl="triton"), whole[order][:, order])


def test_an_infinity_is_no_nan() -> None:
    x, g, cu = (tensor.abs() for tensor in samples((3, 70), (20, 20), torch.float32))
    x[1, 4] = float("inf")
    assert torch.equal(grad_gram(x, g, cu, impl="triton").isinf(), torch.tensor([[True, True], [True, False]]))


def test_what_is_not_finite_stays_with_its_sample() -> None:
    x, g, cu = samples((70, 3, 64), (20, 20), torch.float32)
    clean = grad_gram(x, g, cu, impl="triton")
    x[71, 4], g[72, 2] = float("inf"), float("nan")
    found = grad_gram(x, g, cu, impl="triton")
    assert not found[1].isfinite().any()
    assert not found[:, 1].isfinite().any()
    assert torch.equal(found[::2, ::2], clean[::2, ::2])


def test_double_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="float64"):
        grad_gram(*samples((2,), (3, 3), torch.float64), impl="triton")
