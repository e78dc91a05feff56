"""grad_sketch_bias and grad_sketch_norm by Triton, interpreted, against the defined matrix and exact gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adaptinf_kernels import NotSupportedError, Preconditioner, Sketch, grad_sketch_bias, grad_sketch_norm

from tests.kernels import sketch_cases as cases
from tests.kernels import sketch_oracle as oracle
from tests.kernels.triton.layouts import assert_any_strides, assert_poison_stays, assert_rows_far_apart

SKETCHES = [Sketch("sjlt", 512), Sketch("sjlt", 2048, seed=2**63 - 1, nonzeros=2), Sketch("rademacher", 77)]
PROBLEMS = {name: problem for name, problem in cases.PROBLEMS.items() if problem.op == "grad_sketch_vector"} | {
    "T=63": cases.bias([63], 64),
    "diagonal": cases.norm([2, 0, 33], 65, "diagonal"),
    "no sample": cases.norm([], 8),
    "no token": cases.bias([0, 0], 8, "less"),
    "d=500": cases.norm([1, 32, 31], 500),
}
SOME = {"bias": cases.bias([7, 31, 1, 0, 64, 5], 37), "norm": cases.norm([7, 31, 1, 0, 64, 5], 130, "adam")}


@pytest.mark.parametrize("sketch", SKETCHES, ids=cases.ident)
@pytest.mark.parametrize("name", PROBLEMS)
def test_equals_the_sketch_of_the_exact_gradients(name: str, sketch: Sketch) -> None:
    problem = PROBLEMS[name]
    found = oracle.check(problem, sketch, "triton")
    assert not found.sketch[torch.tensor(problem.lengths) == 0].any()
    assert torch.equal(problem.run(sketch, "triton").sketch, found.sketch)


def test_xorts() -> None:
    oracle.check(PROBLEMS["norm"], Sketch("xorts", 64, repetitions=2), "triton")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["bias", "norm adam"])
def test_half_precision_is_added_in_float32(name: str, dtype: torch.dtype) -> None:
    oracle.check(PROBLEMS[name].cast(dtype), SKETCHES[1], "triton")


@pytest.mark.parametrize("half", ["normalised", "grad_out"])
def test_mixed_dtypes(half: str) -> None:
    tokens = {**PROBLEMS["norm"].tokens, half: PROBLEMS["norm"].tokens[half].bfloat16()}
    oracle.check(replace(PROBLEMS["norm"], tokens=tokens), SKETCHES[0], "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SOME)
def test_a_sample_does_not_see_its_neighbours(name: str, dtype: torch.dtype) -> None:
    problem, sketch = SOME[name].cast(dtype), SKETCHES[1]
    whole = problem.run(sketch, "triton", return_norms=True)
    assert whole.squared_norms is not None
    for order in ([0], [4], [3], [5, 4, 3, 2, 1, 0], [1] * 3):
        some = problem.only(order).run(sketch, "triton", return_norms=True)
        assert torch.equal(some.sketch, whole.sketch[order])
        assert some.squared_norms is not None
        assert torch.equal(some.squared_norms, whole.squared_norms[order])


def test_additions_have_the_order_of_positions() -> None:
    """Pairs of neighbours, whatever the layout in registers: emulated bit for bit."""
    from adaptinf_kernels.grad_sketch_vector.triton_kernels import sample_sums
    from adaptinf_kernels.sketch.preconditioner import NONE

    g = cases.random(75, 100)
    found, squares = sample_sums(None, g, torch.tensor([0, 75]), NONE, True)
    rows = torch.cat([g, torch.zeros(21, 100)]).view(3, 32, 100)
    expected = pairwise(rows[0] + rows[1] + rows[2])
    assert torch.equal(found[0], expected)
    squared = torch.cat([expected, torch.zeros(28)]).square().view(2, 64)
    assert squares[0] == pairwise(squared[0]) + pairwise(squared[1])


def pairwise(rows: torch.Tensor) -> torch.Tensor:
    while len(rows) > 1:
        rows = rows[::2] + rows[1::2]
    return rows[0]


def test_entries_outside_the_weight_have_no_direction() -> None:
    """Without eps theirs would be 0 / 0."""
    g, bounds = cases.random(5, 33), torch.tensor([0, 5, 5])
    state = Preconditioner.less(cases.random(1, 33), 0.5 + cases.random(1, 33).square(), eps=0.0)
    found, expected = (
        grad_sketch_bias(g, bounds, SKETCHES[0], name="b", preconditioner=state, return_norms=True, impl=impl)
        for impl in ("triton", "reference")
    )
    torch.testing.assert_close(found.sketch, expected.sketch, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.squared_norms, expected.squared_norms, rtol=1e-5, atol=1e-5)


def test_any_strides() -> None:
    assert_any_strides(SOME["norm"], SKETCHES[0])


def test_rows_far_apart() -> None:
    assert_rows_far_apart(SOME["norm"].only([2, 5]), SKETCHES[0])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_sample(poison: float) -> None:
    assert_poison_stays(SOME["norm"], SKETCHES[0], poison)


def test_bounds_on_a_device_are_clamped() -> None:
    """Values there are not checked, so no token beyond the given ones is read: straight to the implementation."""
    from adaptinf_kernels.grad_sketch_vector import triton
    from adaptinf_kernels.sketch.preconditioner import NONE

    g = torch.full((12, 8), 1e30)[2:6].normal_()
    wild, tame = torch.tensor([-5, 3, 2, 9, 2**40]), torch.tensor([0, 3, 3, 4, 4])
    found, norms = triton.run(None, g, wild, SKETCHES[0], "b", NONE, True)
    # sample 1 runs backwards, so it is empty; sample 2 begins where its own bound says
    expected = grad_sketch_bias(g, tame, SKETCHES[0], name="b", impl="triton")
    for sample in (0, 1, 3):
        assert torch.equal(found[sample], expected.sketch[sample])
    assert found.isfinite().all()
    assert norms.isfinite().all()


@pytest.mark.parametrize(
    ("sketch", "reason"),
    [
        (Sketch("sjlt", 256), "from 512 to 8192"),
        (Sketch("xorts", 65536), "up to 32768"),
        (Sketch("kron", 4096), "kron is two products"),
    ],
    ids=str,
)
def test_says_what_it_cannot_do(sketch: Sketch, reason: str) -> None:
    g, bounds = torch.ones(3, 4), torch.tensor([0, 3])
    with pytest.raises(NotSupportedError, match=reason):
        grad_sketch_bias(g, bounds, sketch, name="b", impl="triton")
    for factor, grad in ((g.double(), g), (g, g.double())):
        with pytest.raises(NotSupportedError, match="float64"):
            grad_sketch_norm(factor, grad, bounds, SKETCHES[0], name="b", impl="triton")
