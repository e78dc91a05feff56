"""xorts and rademacher of embeddings by Triton, interpreted, against the defined matrix and exact gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adaptinf_kernels import Sketch, grad_sketch_embedding

from tests.kernels import sketch_cases as cases
from tests.kernels import sketch_oracle as oracle

SKETCHES = [
    Sketch("xorts", 64),
    Sketch("rademacher", 40),
    Sketch("xorts", 512, seed=2**63 - 1, repetitions=3),
    Sketch("rademacher", 1),
    Sketch("xorts", 1),
    Sketch("rademacher", 130, seed=2**63 - 1),
]
PROBLEMS = {
    "T=1": cases.embedding([1], 300, 64),
    "T=63": cases.embedding([0, 7, 1, 0, 63], 50, 20),
    "across slots": cases.embedding([0, 31, 32, 33, 65], 130, 3),
    "one id": cases.embedding([9, 4], 1, 70),
    "d=1": cases.embedding([70, 2], 40, 1),
    "padding": cases.embedding([10, 5], 6, 130, padding_idx=2),
    "no sample": cases.embedding([], 8, 8),
    "no token": cases.embedding([0, 0], 8, 8),
}
SOME = cases.embedding([7, 12, 1, 0, 33, 5], 90, 70, padding_idx=3)
TWO = pytest.mark.parametrize("sketch", SKETCHES[:2], ids=cases.ident)


@pytest.mark.parametrize(
    ("name", "sketch"),
    [(name, SKETCHES[(number + shift) % 6]) for number, name in enumerate(PROBLEMS) for shift in (0, 1)]
    + [("padding", sketch) for sketch in SKETCHES],
    ids=cases.ident,
)
def test_equals_the_sketch_of_the_exact_gradients(name: str, sketch: Sketch) -> None:
    problem = PROBLEMS[name]
    found = oracle.check(problem, sketch, "triton")
    assert not found.sketch[torch.tensor(problem.lengths) == 0].any()


@TWO
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_added_in_float32(dtype: torch.dtype, sketch: Sketch) -> None:
    oracle.check(SOME.cast(dtype), sketch, "triton")


@TWO
@pytest.mark.parametrize("integers", [torch.int32, torch.int64], ids=str)
def test_ids_of_a_large_table(sketch: Sketch, integers: torch.dtype) -> None:
    """Whole numbers are added exactly, so one wrong sign or place would show; entries beyond 2^32 for rademacher."""
    vocabulary = 151_936 if sketch.kind == "xorts" else 2**31
    ids = torch.tensor([0, 151_935, 63, 64, 65, 100_000, 151_935, vocabulary - 1], dtype=integers)
    g = cases.random(8, 200).mul(8).round()
    bounds, options = torch.tensor([0, 3, 8]), {"name": "embed", "vocabulary": vocabulary, "padding_idx": 65}
    found, expected = (
        grad_sketch_embedding(ids, g, bounds, sketch, impl=impl, **options).sketch for impl in ("triton", "reference")
    )
    assert torch.equal(found, expected)


@TWO
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sample_does_not_see_its_neighbours(dtype: torch.dtype, sketch: Sketch) -> None:
    problem = SOME.cast(dtype)
    whole = problem.run(sketch, "triton").sketch
    for order in ([4], [5, 4, 3, 2, 1, 0], [1] * 3):
        assert torch.equal(problem.only(order).run(sketch, "triton").sketch, whole[order])


@TWO
def test_any_strides_and_rows_far_apart(sketch: Sketch) -> None:
    """Offsets beyond 2^31 elements; only the pages that are read are memory."""
    problem = SOME.only([2, 5])
    expected = problem.run(sketch, "triton").sketch
    g, ids = problem.tokens["grad_out"], problem.tokens["ids"]
    spread = torch.stack([ids, ids + 1], dim=1)[:, 0]
    for other in (
        torch.full((len(g) + 1, g.shape[1] + 3), 7.0)[1:, 2:-1].copy_(g),
        g.T.contiguous().T,
        torch.empty_strided(g.shape, (2**31 // 5 + 16, 1)).copy_(g),
    ):
        moved = replace(problem, tokens={"ids": spread, "grad_out": other})
        assert torch.equal(moved.run(sketch, "triton").sketch, expected)


@TWO
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_sample(poison: float, sketch: Sketch) -> None:
    g, ids = SOME.tokens["grad_out"].clone(), SOME.tokens["ids"].clone()
    g[10, 3] = poison
    ids[4], g[4] = 3, torch.nan  # the padding has no gradient at all
    found = replace(SOME, tokens={"ids": ids, "grad_out": g}).run(sketch, "triton").sketch
    expected = replace(SOME, tokens={"ids": ids, "grad_out": SOME.tokens["grad_out"]}).run(sketch, "triton").sketch
    others = [0, 2, 3, 4, 5]
    assert not found[1].isfinite().all()
    assert torch.equal(found[others], expected[others])


@TWO
def test_bounds_and_ids_on_a_device_are_not_trusted(sketch: Sketch) -> None:
    """Values there are not checked, so nothing beyond what was given is read: straight to the implementation."""
    from adaptinf_kernels.grad_sketch_embedding import triton

    g, ids = torch.full((12, 8), 1e30)[2:6].normal_(), torch.tensor([4, 1, 4, 0])
    wild, tame = torch.tensor([-5, 3, 2, 9, 2**40]), torch.tensor([0, 3, 3, 4, 4])
    found, _ = triton.run(ids, g, wild, sketch, "e", 5, -1, False)
    # sample 1 runs backwards, so it is empty; sample 2 begins where its own bound says
    expected, _ = triton.run(ids, g, tame, sketch, "e", 5, -1, False)
    for sample in (0, 1, 3):
        assert torch.equal(found[sample], expected[sample])
    assert found.isfinite().all()
    outside, _ = triton.run(torch.tensor([-7, 2**40, 9, 5]), g, tame, sketch, "e", 5, -1, False)
    assert not outside.any()
