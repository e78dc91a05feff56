"""grad_gram on the CPU against the gradients themselves."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import build_info, grad_gram
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.grad_gram_cases import LENGTHS, WIDTHS, check, exact, samples

NATIVE = pytest.mark.skipif(not build_info()["native"], reason=build_info()["reason"] or "it is built")
IMPLS = ["reference", pytest.param("native", marks=NATIVE)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_gradients_products(impl: str, lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    ours = samples(lengths, (70, 33), dtype)
    found = grad_gram(*ours, impl=impl)
    check(found, ours, ours)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_other_samples(impl: str, widths: tuple[int, int]) -> None:
    ours = samples((3, 0, 70), widths, torch.float32)
    others = samples((65, 1, 0, 64), widths, torch.float32, seed=1)
    check(grad_gram(*ours, other=others, impl=impl), ours, others)


def test_double_sums_in_double() -> None:
    ours = samples((3, 1100), (20, 30), torch.float64)
    assert torch.equal(grad_gram(*ours), exact(ours, ours).float())


@pytest.mark.parametrize("impl", IMPLS)
@given(lengths=st.lists(st.integers(0, 40), max_size=5), d_in=st.integers(1, 40), d_out=st.integers(1, 40))
def test_any_segments(impl: str, lengths: list[int], d_in: int, d_out: int) -> None:
    ours = samples(tuple(lengths), (d_in, d_out), torch.float32)
    check(grad_gram(*ours, impl=impl), ours, ours)


@pytest.mark.parametrize("impl", IMPLS)
def test_any_strides(impl: str) -> None:
    x, g, cu = samples((40, 60), (48, 20), torch.float32)
    expected = grad_gram(x, g, cu, impl=impl)
    padded = torch.zeros(100, 64)[:, :48].copy_(x)
    assert torch.equal(grad_gram(padded, g.T.contiguous().T, cu.int(), impl=impl), expected)
    ones = torch.ones(1, 48).expand(100, 48)
    assert torch.equal(grad_gram(ones, g, cu, impl=impl), grad_gram(ones.clone(), g, cu, impl=impl))


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_far_apart(impl: str) -> None:
    """Offsets beyond 2^31 elements; only the pages that are read are memory."""
    x, g, cu = samples((2, 1), (16, 16), torch.bfloat16)
    apart = torch.empty_strided((3, 16), (2**30 + 16, 1), dtype=torch.bfloat16).copy_(x)
    assert torch.equal(grad_gram(apart, g, cu, impl=impl), grad_gram(x, g, cu, impl=impl))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_entry_depends_on_its_two_samples_alone(impl: str, dtype: torch.dtype) -> None:
    """Neither on the others, nor on the order."""
    x, g, cu = samples((63, 200, 0, 1, 130), (70, 33), dtype)
    whole = grad_gram(x, g, cu, impl=impl)
    assert torch.equal(grad_gram(x, g, cu, other=(x, g, cu), impl=impl), whole)
    for order in ([4, 0], [0, 4], [1, 1], [3], [2, 4, 1, 3, 0]):
        tokens = torch.cat([torch.arange(cu[one], cu[one + 1]) for one in order])
        bounds = torch.tensor([0, *(int(cu[one + 1] - cu[one]) for one in order)]).cumsum(0)
        assert torch.equal(grad_gram(x[tokens], g[tokens], bounds, impl=impl), whole[order][:, order])


@pytest.mark.parametrize("impl", IMPLS)
def test_symmetric_where_the_order_of_a_sum_is_all(impl: str) -> None:
    """Terms of every size that cancel: rows before columns and columns before rows are far apart in any precision."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for pairs in (5, 15, 30, 50):
        sizes = 2.0 ** torch.randint(-40, 40, (pairs, 1), generator=generator)
        part = torch.randn(pairs, 1, generator=generator) * sizes
        parts.append(torch.cat([part, -part])[torch.randperm(2 * pairs, generator=generator)])
    x = torch.cat(parts)
    found = grad_gram(x, torch.ones(len(x), 1), torch.tensor([0, 10, 40, 100, 200]), impl=impl)
    assert found.isfinite().all()
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("impl", IMPLS)
def test_threads_change_no_bit(impl: str) -> None:
    ours = samples((63, 200, 0, 1, 130), (700, 333), torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(grad_gram(*ours, impl=impl))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("impl", IMPLS)
def test_an_infinity_is_no_nan(impl: str) -> None:
    x, g, cu = (tensor.abs() for tensor in samples((3, 70), (20, 20), torch.float32))
    x[1, 4] = float("inf")
    assert torch.equal(grad_gram(x, g, cu, impl=impl).isinf(), torch.tensor([[True, True], [True, False]]))


@pytest.mark.parametrize("impl", IMPLS)
def test_what_is_not_finite_stays_with_its_sample(impl: str) -> None:
    x, g, cu = samples((70, 3, 64), (20, 20), torch.float32)
    clean = grad_gram(x, g, cu, impl=impl)
    x[71, 4], g[72, 2] = float("inf"), float("nan")
    found = grad_gram(x, g, cu, impl=impl)
    assert not found[1].isfinite().any()
    assert not found[:, 1].isfinite().any()
    assert torch.equal(found[::2, ::2], clean[::2, ::2])


def test_arrays_of_numpy() -> None:
    ours, others = samples((2, 3), (4, 6), torch.float32), samples((1, 5), (4, 6), torch.float32, seed=1)
    found = grad_gram(*(each.numpy() for each in ours), other=tuple(each.numpy() for each in others))
    assert torch.equal(found, grad_gram(*ours, other=others))


X, G, CU = samples((2, 3), (4, 6), torch.float32)


@pytest.mark.parametrize(
    ("arguments", "other", "error", "message"),
    [
        ((X[0], G, CU), None, ValueError, "x must be a matrix"),
        ((X.int(), G, CU), None, TypeError, "x must be floating point"),
        ((X[1:], G, CU), None, ValueError, "same tokens"),
        ((X, G, CU.float()), None, TypeError, "int32 or int64"),
        ((X, G, CU[:0]), None, ValueError, "B \\+ 1"),
        ((X, G, CU + 1), None, ValueError, "from 0 to T=5"),
        ((X, G, torch.tensor([0, 6, 5])), None, ValueError, "must not fall"),
        ((X, G, CU), (X[:, 1:], G, CU), ValueError, "not the same layer"),
        ((X, G, CU), (X, G[:, 1:], CU), ValueError, "not the same layer"),
        ((X, G, CU), (X.bfloat16(), G, CU), TypeError, "convert one"),
        ((X, G, CU), (X, G, CU[:-1]), ValueError, "from 0 to T=5"),
        ((X, G, CU), (X, G[1:], CU), ValueError, "other's"),
        ((X, G, CU), (X.to("meta"), G.to("meta"), CU), ValueError, "cu_seqlens is on|is on"),
    ],
)
def test_bad_input_is_named(arguments: tuple, other: tuple | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        grad_gram(*arguments, other=other)


def test_operator_check() -> None:
    torch.library.opcheck(
        torch.ops.adaptinf_kernels.grad_gram.default, (X.T.contiguous().T, G, CU, None, None, None, "auto")
    )
    torch.library.opcheck(torch.ops.adaptinf_kernels.grad_gram.default, (X, G, CU, X, G, CU, "auto"))
