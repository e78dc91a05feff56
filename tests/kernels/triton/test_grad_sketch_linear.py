"""grad_sketch_linear by Triton, interpreted, against the defined matrix and exact gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adaptinf_kernels import NotSupportedError, Preconditioner, Sketch, grad_sketch_linear

from tests.kernels import sketch_cases as cases
from tests.kernels import sketch_oracle as oracle
from tests.kernels.triton.layouts import assert_any_strides, assert_poison_stays, assert_rows_far_apart

SKETCHES = [
    Sketch("sjlt", 64),
    Sketch("sjlt", 2048, seed=2**63 - 1),
    Sketch("sjlt", 512, nonzeros=2),
    Sketch("sjlt", 1024, seed=7, nonzeros=4),
]
PROBLEMS = {
    "T=1": cases.linear([1], 9, 5),
    "T=63": cases.linear([63], 40, 70),
    "T=500": cases.linear([500], 12, 3),
    "empty": cases.linear([0, 3, 0, 1, 29, 0], 33, 17),
    "1x1": cases.linear([2, 2], 1, 1),
    "130x257": cases.linear([5, 0, 66], 257, 130),
    "1x300": cases.linear([70, 3], 300, 1),
    "no sample": cases.linear([], 8, 8),
    "diagonal": cases.linear([6, 0, 70], 257, 130, "diagonal"),
    "less": cases.linear([6, 0, 40], 33, 17, "less"),
    "adam": cases.linear([6, 0, 70], 257, 130, "adam"),
}
MANY = ("empty", "less")
"""With every sketch, and twice."""
SOME = {"plain": cases.linear([7, 31, 1, 0, 64, 5], 37, 19), "adam": cases.linear([7, 31, 1, 0, 64, 5], 37, 19, "adam")}


@pytest.mark.parametrize(
    ("name", "sketch"),
    [(name, SKETCHES[number % 4]) for number, name in enumerate(PROBLEMS) if name not in MANY]
    + [(name, sketch) for name in MANY for sketch in SKETCHES],
    ids=cases.ident,
)
def test_equals_the_sketch_of_the_exact_gradients(name: str, sketch: Sketch) -> None:
    problem = PROBLEMS[name]
    found = oracle.check(problem, sketch, "triton")
    assert not found.sketch[torch.tensor(problem.lengths) == 0].any()
    if name in MANY:
        assert torch.equal(problem.run(sketch, "triton").sketch, found.sketch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["T=63", "less"])
def test_half_precision_is_added_in_float32(name: str, dtype: torch.dtype) -> None:
    oracle.check(PROBLEMS[name].cast(dtype), SKETCHES[1], "triton")


@pytest.mark.parametrize("half", ["x", "grad_out"])
def test_mixed_dtypes(half: str) -> None:
    problem = PROBLEMS["T=63"]
    tokens = {**problem.tokens, half: problem.tokens[half].bfloat16()}
    oracle.check(replace(problem, tokens=tokens), SKETCHES[1], "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SOME)
def test_a_sample_does_not_see_its_neighbours(name: str, dtype: torch.dtype) -> None:
    problem, sketch = SOME[name].cast(dtype), SKETCHES[2]
    whole = problem.run(sketch, "triton", return_norms=True)
    assert whole.squared_norms is not None
    for order in ([0], [4], [3], [5, 4, 3, 2, 1, 0], [1] * 3):
        some = problem.only(order).run(sketch, "triton", return_norms=True)
        assert torch.equal(some.sketch, whole.sketch[order])
        assert some.squared_norms is not None
        assert torch.equal(some.squared_norms, whole.squared_norms[order])


def test_many_groups_add_up_in_order() -> None:
    """A weight of more blocks than programs."""
    problem = cases.linear([2], 130 * 128, 5)
    found = oracle.check(problem, SKETCHES[1], "triton")
    assert torch.equal(problem.run(SKETCHES[1], "triton").sketch, found.sketch)


def test_entries_outside_the_weight_have_no_direction() -> None:
    """Without eps theirs would be 0 / 0."""
    tokens, bounds = PROBLEMS["less"].tokens, torch.tensor([0, 46])
    state = Preconditioner.less(cases.random(17, 33), 0.5 + cases.random(17, 33).square(), eps=0.0)
    found, expected = (
        grad_sketch_linear(**tokens, cu_seqlens=bounds, sketch=SKETCHES[1], name="w", preconditioner=state, impl=impl)
        for impl in ("triton", "reference")
    )
    torch.testing.assert_close(found.sketch, expected.sketch, rtol=1e-5, atol=1e-5)


def test_any_strides() -> None:
    assert_any_strides(SOME["plain"], SKETCHES[0])


def test_rows_far_apart() -> None:
    assert_rows_far_apart(SOME["plain"].only([2, 5]), SKETCHES[0])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_sample(poison: float) -> None:
    assert_poison_stays(SOME["plain"], SKETCHES[0], poison)


def test_bounds_on_a_device_are_clamped() -> None:
    """Values there are not checked, so no token beyond the given ones is read: straight to the implementation."""
    from adaptinf_kernels.grad_sketch_linear import triton
    from adaptinf_kernels.sketch.preconditioner import NONE

    x, g = torch.full((12, 8), 1e30)[2:6].normal_(), torch.full((12, 8), 1e30)[2:6].normal_()
    wild, tame = torch.tensor([-5, 3, 2, 9, 2**40]), torch.tensor([0, 3, 3, 4, 4])
    found, norms = triton.run(x, g, wild, SKETCHES[0], "w", NONE, True)
    # sample 1 runs backwards, so it is empty; sample 2 begins where its own bound says
    expected = grad_sketch_linear(x, g, tame, SKETCHES[0], name="w", return_norms=True, impl="triton")
    for sample in (0, 1, 3):
        assert torch.equal(found[sample], expected.sketch[sample])
    assert found.isfinite().all()
    assert norms.isfinite().all()


@pytest.mark.parametrize(
    ("sketch", "reason"),
    [
        (Sketch("sjlt", 96), "powers of two"),
        (Sketch("sjlt", 96, nonzeros=3), "powers of two"),
        (Sketch("sjlt", 32), "at least 8 rows"),
        (Sketch("sjlt", 65536), "k up to 8192"),
        (Sketch("xorts", 8), "k from 16 to 8192"),
        (Sketch("xorts", 16384), "k from 16 to 8192"),
        (Sketch("kron", 4096), "kron is two products"),
    ],
    ids=str,
)
def test_says_what_it_cannot_do(sketch: Sketch, reason: str) -> None:
    x = torch.ones(3, 4)
    with pytest.raises(NotSupportedError, match=reason):
        grad_sketch_linear(x, x, torch.tensor([0, 3]), sketch, name="w", impl="triton")
    with pytest.raises(NotSupportedError, match="float64"):
        grad_sketch_linear(x.double(), x.double(), torch.tensor([0, 3]), SKETCHES[0], name="w", impl="triton")
