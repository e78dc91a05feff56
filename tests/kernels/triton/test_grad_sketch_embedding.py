"""grad_sketch_embedding by Triton, interpreted, against the defined matrix and exact gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adaptinf_kernels import NotSupportedError, Sketch, grad_sketch_embedding

from tests.kernels import sketch_cases as cases
from tests.kernels import sketch_oracle as oracle

SKETCHES = [
    Sketch("sjlt", 512),
    Sketch("sjlt", 1024, seed=2**63 - 1, nonzeros=2),
    Sketch("sjlt", 4096),
    Sketch("sjlt", 8192),
]
PROBLEMS = {
    **{name: problem for name, problem in cases.PROBLEMS.items() if problem.op == "grad_sketch_embedding"},
    "T=1": cases.embedding([1], 300, 64),
    "across products": cases.embedding([0, 63, 64, 65, 129], 130, 33),
    "one id": cases.embedding([150], 1, 70),
    "no sample": cases.embedding([], 8, 8),
    "no token": cases.embedding([0, 0], 8, 8),
}
SOME = cases.embedding([7, 31, 1, 0, 70, 5], 90, 70, padding_idx=3)


@pytest.mark.parametrize(
    ("name", "sketch"),
    [(name, SKETCHES[number % 4]) for number, name in enumerate(PROBLEMS) if name != "embedding padding"]
    + [("embedding padding", sketch) for sketch in SKETCHES],
    ids=cases.ident,
)
def test_equals_the_sketch_of_the_exact_gradients(name: str, sketch: Sketch) -> None:
    problem = PROBLEMS[name]
    found = oracle.check(problem, sketch, "triton")
    assert not found.sketch[torch.tensor(problem.lengths) == 0].any()
    if name == "embedding padding":  # of every sketch
        assert torch.equal(problem.run(sketch, "triton").sketch, found.sketch)


def test_many_groups_add_up() -> None:
    """More columns of tiles than programs, the last one of few entries."""
    ids, g = torch.tensor([3, 80, 3, 0, 7]), cases.random(5, 66 * 32 + 5).mul(8).round()
    options = {"sketch": SKETCHES[0], "name": "e", "vocabulary": 90}
    found, expected = (
        grad_sketch_embedding(ids, g, torch.tensor([0, 3, 5]), impl=impl, **options).sketch
        for impl in ("triton", "reference")
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_added_in_float32(dtype: torch.dtype) -> None:
    oracle.check(SOME.cast(dtype), SKETCHES[1], "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("integers", [torch.int32, torch.int64], ids=str)
def test_ids_of_a_large_table(dtype: torch.dtype, integers: torch.dtype) -> None:
    """Whole numbers are added exactly, so one wrong sign or place would show."""
    ids = torch.tensor([0, 151_935, 63, 64, 65, 100_000, 151_935, 2**31 - 1], dtype=integers)
    g = cases.random(8, 200).mul(8).round().to(dtype)
    bounds, options = torch.tensor([0, 3, 8]), {"name": "embed", "vocabulary": 2**31, "padding_idx": 65}
    for sketch in SKETCHES:
        found, expected = (
            grad_sketch_embedding(ids, g, bounds, sketch, impl=impl, **options).sketch
            for impl in ("triton", "reference")
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sample_does_not_see_its_neighbours(dtype: torch.dtype) -> None:
    problem = SOME.cast(dtype)
    whole = problem.run(SKETCHES[1], "triton", return_norms=True)
    assert whole.squared_norms is not None
    for order in ([4], [5, 4, 3, 2, 1, 0], [1] * 3):
        some = problem.only(order).run(SKETCHES[1], "triton", return_norms=True)
        assert torch.equal(some.sketch, whole.sketch[order])
        assert some.squared_norms is not None
        assert torch.equal(some.squared_norms, whole.squared_norms[order])


def test_any_strides() -> None:
    expected = SOME.run(SKETCHES[0], "triton").sketch
    g, ids = SOME.tokens["grad_out"], SOME.tokens["ids"]
    spread = torch.stack([ids, ids + 1], dim=1)[:, 0]
    for other in (torch.full((len(g) + 1, g.shape[1] + 3), 7.0)[1:, 2:-1].copy_(g), g.T.contiguous().T):
        problem = replace(SOME, tokens={"ids": spread, "grad_out": other})
        assert torch.equal(problem.run(SKETCHES[0], "triton").sketch, expected)
    found, expected = (
        replace(SOME, tokens={"ids": ids, "grad_out": one}).run(SKETCHES[0], "triton").sketch
        for one in (g[:1].expand(g.shape), g[:1].expand(g.shape).contiguous())
    )
    assert torch.equal(found, expected)


def test_rows_far_apart() -> None:
    """Offsets beyond 2^31 elements; only the pages that are read are memory."""
    problem = SOME.only([2, 5])
    g = problem.tokens["grad_out"]
    apart = torch.empty_strided(g.shape, (2**31 // 5 + 16, 1)).copy_(g)
    found = replace(problem, tokens={**problem.tokens, "grad_out": apart}).run(SKETCHES[0], "triton").sketch
    assert torch.equal(found, problem.run(SKETCHES[0], "triton").sketch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_sample(poison: float, dtype: torch.dtype) -> None:
    problem = SOME.cast(dtype)
    g = problem.tokens["grad_out"].clone()
    g[10, 3] = poison
    found = replace(problem, tokens={**problem.tokens, "grad_out": g}).run(SKETCHES[0], "triton", return_norms=True)
    others = [0, 2, 3, 4, 5]
    assert not found.sketch[1].isfinite().all()
    assert torch.equal(found.sketch[others], problem.run(SKETCHES[0], "triton").sketch[others])
    assert found.squared_norms is not None
    assert found.squared_norms.isfinite().tolist() == [True, False, True, True, True, True]


def test_the_padding_has_no_gradient_at_all() -> None:
    g = SOME.tokens["grad_out"].clone()
    ids = SOME.tokens["ids"].clone()
    ids[4], g[4] = 3, torch.nan
    found = replace(SOME, tokens={"ids": ids, "grad_out": g}).run(SKETCHES[0], "triton", return_norms=True)
    assert found.sketch.isfinite().all()
    assert found.squared_norms is not None
    assert found.squared_norms.isfinite().all()


def test_bounds_and_ids_on_a_device_are_not_trusted() -> None:
    """Values there are not checked, so no token beyond the given ones is read: straight to the implementation."""
    from adaptinf_kernels.grad_sketch_embedding import triton

    g, ids = torch.full((12, 8), 1e30)[2:6].normal_(), torch.tensor([4, 1, 4, 0])
    wild, tame = torch.tensor([-5, 3, 2, 9, 2**40]), torch.tensor([0, 3, 3, 4, 4])
    found, norms = triton.run(ids, g, wild, SKETCHES[0], "e", 5, -1, True)
    # sample 1 runs backwards, so it is empty; sample 2 begins where its own bound says
    expected = grad_sketch_embedding(ids, g, tame, SKETCHES[0], name="e", vocabulary=5, impl="triton").sketch
    for sample in (0, 1, 3):
        assert torch.equal(found[sample], expected[sample])
    assert found.isfinite().all()
    assert norms.isfinite().all()
    outside, norms = triton.run(torch.tensor([-7, 2**40, 9, 5]), g, tame, SKETCHES[0], "e", 5, -1, True)
    assert outside.isfinite().all()
    assert norms.isfinite().all()


@pytest.mark.parametrize(
    ("sketch", "reason"),
    [
        (Sketch("sjlt", 256), "from 512 to 8192"),
        (Sketch("sjlt", 1000), "power of two"),
        (Sketch("xorts", 65536), "k up to 32768"),
        (Sketch("kron", 4096), "kron is two products"),
    ],
    ids=str,
)
def test_says_what_it_cannot_do(sketch: Sketch, reason: str) -> None:
    ids, g, options = torch.tensor([0, 1, 1]), torch.ones(3, 4), {"name": "e", "vocabulary": 2, "impl": "triton"}
    bounds = torch.tensor([0, 3])
    with pytest.raises(NotSupportedError, match=reason):
        grad_sketch_embedding(ids, g, bounds, sketch, **options)
    with pytest.raises(NotSupportedError, match="float64"):
        grad_sketch_embedding(ids, g.double(), bounds, SKETCHES[0], **options)
