"""xorts of Linear layers by Triton, interpreted, against the defined matrix and exact gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adaptinf_kernels import Sketch, grad_sketch_linear

from tests.kernels import sketch_cases as cases
from tests.kernels import sketch_oracle as oracle
from tests.kernels.triton.layouts import assert_any_strides, assert_rows_far_apart

SKETCHES = [
    Sketch("xorts", 16, seed=2**63 - 1, repetitions=3),
    Sketch("xorts", 128),
    Sketch("xorts", 256, repetitions=2),
    Sketch("xorts", 512, seed=7),
]
LARGE = [Sketch("xorts", 2048), Sketch("xorts", 4096, repetitions=4), Sketch("xorts", 8192, repetitions=2)]
PROBLEMS = {
    "T=1": cases.linear([1], 9, 5),
    "T=63": cases.linear([63], 40, 70),
    "T=500": cases.linear([500], 12, 3),
    "empty": cases.linear([0, 3, 0, 1, 29, 0], 33, 17),
    "1x1": cases.linear([2, 2], 1, 1),
    "several chunks of ids": cases.linear([5, 0, 66], 257, 530),
    "1x300": cases.linear([70, 3], 300, 1),
    "no sample": cases.linear([], 8, 8),
    "more ids than 8192 buckets": cases.linear([2], 9, 8200),
}
MANY = ("empty", "several chunks of ids")
"""With every sketch; that of more ids than buckets comes with the widest alone."""
SOME = cases.linear([7, 31, 1, 0, 64, 33], 37, 19)


@pytest.mark.parametrize(
    ("name", "sketch"),
    [
        (name, SKETCHES[number % 4])
        for number, name in enumerate(PROBLEMS)
        if name not in (*MANY, "more ids than 8192 buckets")
    ]
    + [(name, sketch) for name in MANY for sketch in SKETCHES]
    + [("empty", sketch) for sketch in LARGE]
    + [("more ids than 8192 buckets", LARGE[2])],
    ids=cases.ident,
)
def test_equals_the_sketch_of_the_exact_gradients(name: str, sketch: Sketch) -> None:
    problem = PROBLEMS[name]
    found = oracle.check(problem, sketch, "triton")
    assert not found.sketch[torch.tensor(problem.lengths) == 0].any()
    if name == "empty":  # of every sketch
        assert torch.equal(problem.run(sketch, "triton").sketch, found.sketch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_added_in_float32(dtype: torch.dtype) -> None:
    oracle.check(PROBLEMS["several chunks of ids"].cast(dtype), SKETCHES[2], "triton")


@pytest.mark.parametrize("half", ["x", "grad_out"])
def test_mixed_dtypes(half: str) -> None:
    problem = PROBLEMS["T=63"]
    tokens = {**problem.tokens, half: problem.tokens[half].bfloat16()}
    oracle.check(replace(problem, tokens=tokens), SKETCHES[1], "triton")


@pytest.mark.parametrize("sketch", [SKETCHES[0], SKETCHES[3]], ids=cases.ident)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sample_does_not_see_its_neighbours(sketch: Sketch, dtype: torch.dtype) -> None:
    problem = SOME.cast(dtype)
    whole = problem.run(sketch, "triton", return_norms=True)
    assert whole.squared_norms is not None
    for order in ([0], [4], [3], [5, 4, 3, 2, 1, 0], [1] * 3):
        some = problem.only(order).run(sketch, "triton", return_norms=True)
        assert torch.equal(some.sketch, whole.sketch[order])
        assert some.squared_norms is not None
        assert torch.equal(some.squared_norms, whole.squared_norms[order])


def test_any_strides() -> None:
    assert_any_strides(SOME, SKETCHES[2])


def test_rows_far_apart() -> None:
    assert_rows_far_apart(SOME.only([2, 0]), SKETCHES[2])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_sample(poison: float) -> None:
    tokens = {**SOME.tokens, "grad_out": SOME.tokens["grad_out"].clone()}
    tokens["grad_out"][10, 3] = poison
    found = replace(SOME, tokens=tokens).run(SKETCHES[2], "triton").sketch
    others = [0, 2, 3, 4, 5]
    assert not found[1].isfinite().any()
    assert torch.equal(found[others], SOME.run(SKETCHES[2], "triton").sketch[others])


def test_bounds_on_a_device_are_clamped() -> None:
    """Values there are not checked, so no token beyond the given ones is read: straight to the implementation."""
    from adaptinf_kernels.grad_sketch_linear import triton
    from adaptinf_kernels.sketch.preconditioner import NONE

    x, g = torch.full((12, 8), 1e30)[2:6].normal_(), torch.full((12, 8), 1e30)[2:6].normal_()
    wild, tame = torch.tensor([-5, 3, 2, 9, 2**40]), torch.tensor([0, 3, 3, 4, 4])
    found, _ = triton.run(x, g, wild, SKETCHES[1], "w", NONE, False)
    # sample 1 runs backwards, so it is empty; sample 2 begins where its own bound says
    expected = grad_sketch_linear(x, g, tame, SKETCHES[1], name="w", impl="triton")
    for sample in (0, 1, 3):
        assert torch.equal(found[sample], expected.sketch[sample])
    assert found.isfinite().all()
