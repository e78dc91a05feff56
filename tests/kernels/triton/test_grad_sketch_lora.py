"""grad_sketch_lora by Triton, interpreted, against the defined matrices and exact gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adaptinf_kernels import NotSupportedError, Sketch

from tests.kernels import sketch_cases as cases
from tests.kernels import sketch_oracle as oracle

SKETCH = Sketch("sjlt", 512, seed=4)
PROBLEMS = {
    "r=1": cases.lora([1, 0, 3], 9, 5, 1),
    "r=8": cases.lora([63, 2], 40, 70, 8, scaling=0.5),
    "r=17": cases.lora([13, 100, 0, 14], 63, 130, 17, scaling=16 / 16**0.5),
    "dora": cases.lora([6, 0, 40], 33, 17, 4, dora=True),
    "less": cases.lora([6, 0, 40], 33, 17, 4, "less"),
    "adam dora": cases.lora([6, 0, 40], 33, 17, 4, "adam", dora=True),
}
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("name", PROBLEMS)
def test_equals_the_sketch_of_the_exact_gradients(name: str) -> None:
    found = oracle.check(PROBLEMS[name], SKETCH, "triton")
    assert not found.sketch[torch.tensor(PROBLEMS[name].lengths) == 0].any()


@pytest.mark.parametrize("name", ["r=8", "dora"])
def test_xorts(name: str) -> None:
    oracle.check(PROBLEMS[name], Sketch("xorts", 128, seed=4, repetitions=2), "triton")


@pytest.mark.parametrize("name", ["r=8", "dora", "adam dora"])
def test_rademacher(name: str) -> None:
    oracle.check(PROBLEMS[name], Sketch("rademacher", 130, seed=4), "triton")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", ["r=8", "adam dora"])
def test_half_precision_is_added_in_float32(name: str, dtype: torch.dtype) -> None:
    oracle.check(PROBLEMS[name].cast(dtype), Sketch("sjlt", 256, nonzeros=2), "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sample_does_not_see_its_neighbours(dtype: torch.dtype) -> None:
    problem = cases.lora([7, 1, 0, 70, 5], 37, 19, 4).cast(dtype)
    whole = problem.run(SKETCH, "triton", return_norms=True)
    assert whole.squared_norms is not None
    for order in ([3], [4, 3, 2, 1, 0], [1, 1]):
        some = problem.only(order).run(SKETCH, "triton", return_norms=True)
        assert torch.equal(some.sketch, whole.sketch[order])
        assert some.squared_norms is not None
        assert torch.equal(some.squared_norms, whole.squared_norms[order])


def test_any_strides() -> None:
    problem = PROBLEMS["r=8"]
    expected = problem.run(SKETCH, "triton").sketch
    tokens = {key: tensor.T.contiguous().T for key, tensor in problem.tokens.items()}
    assert torch.equal(replace(problem, tokens=tokens).run(SKETCH, "triton").sketch, expected)


def test_a_nan_stays_with_its_sample() -> None:
    problem = PROBLEMS["r=8"]
    tokens = {**problem.tokens, "x": problem.tokens["x"].clone()}
    tokens["x"][64, 3] = torch.nan
    found = replace(problem, tokens=tokens).run(SKETCH, "triton").sketch
    assert torch.equal(found[0], problem.run(SKETCH, "triton").sketch[0])
    assert not found[1].isfinite().all()


def test_says_what_it_cannot_do() -> None:
    problem = cases.lora([1], 3, 4, 129)
    tokens, cu = problem.tokens, torch.tensor([0, 1])
    with pytest.raises(NotSupportedError, match="up to 128, not 129"):
        problem.call(**tokens, cu_seqlens=cu, sketch=SKETCH, impl="triton")
    with pytest.raises(NotSupportedError, match="kron is two products"):
        problem.call(**tokens, cu_seqlens=cu, sketch=Sketch("kron", 4096), impl="triton")
