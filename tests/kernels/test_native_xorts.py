"""xorts of the native module, on every instruction set this processor has: as transforms of tokens (wide weights, short
sketches) and as entries moved to their buckets (all else).

Whole numbers make every sum exact in float32, so there float64 must be met bit by bit; accuracy is tested apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from adaptinf_kernels import (
    Sketch,
    build_info,
    grad_sketch_bias,
    grad_sketch_embedding,
    grad_sketch_linear,
    grad_sketch_lora,
    project,
)
from adaptinf_kernels.sketch import native as sketch_native
from adaptinf_kernels.sketch.samples import GradSketch
from torch import Tensor

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)

EPS = torch.finfo(torch.float32).eps
WIDE = [
    (160, 160, 1),
    (160, 160, 2),
    (160, 130, 16),
    (130, 161, 32),
    (300, 200, 64),
    (300, 301, 512),
    (600, 500, 8192),
    (1500, 1400, 2**15),
]
"""(d_out, d_in, k) that are transformed."""
NARROW = [
    (1, 1, 1),
    (3, 5, 2),
    (40, 30, 4),
    (1, 500, 16),
    (500, 9, 32),
    (63, 65, 1024),
    (33, 17, 8192),
    (70, 50, 2**15),
]
"""(d_out, d_in, k) whose entries are moved."""
LENGTHS = [0, 1, 63, 0, 70, 2]


def ident(value: object) -> str:
    return str(value)


@pytest.fixture(params=build_info()["cpu"]["levels"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sketch_native, "CPU_LEVEL", request.param)
    return request.param


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def whole(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Whole numbers from -2 to 2."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.3


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])


def linear(x: Tensor, g: Tensor, cu: Tensor, sketch: Sketch, impl: str = "native") -> GradSketch:
    return grad_sketch_linear(x, g, cu, sketch, name="w", return_norms=True, impl=impl)


def assert_same(found: tuple, expected: tuple) -> None:
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("repetitions", [1, 4])
@pytest.mark.parametrize("case", WIDE + NARROW, ids=ident)
def test_is_float64_in_whole_numbers(level: str, case: tuple[int, int, int], repetitions: int) -> None:
    d_out, d_in, k = case
    sketch, cu = Sketch("xorts", k, repetitions=repetitions), bounds(LENGTHS)
    x, g = whole(sum(LENGTHS), d_in), whole(sum(LENGTHS), d_out, seed=1)
    found = linear(x, g, cu, sketch)
    assert_same(found, linear(x.double(), g.double(), cu, sketch, "reference"))
    assert not found.sketch[torch.tensor(LENGTHS) == 0].any()


@pytest.mark.parametrize(
    "case", [(300, 301, 512, 1), (160, 160, 1, 2), (300, 8000, 16, 3), (2000, 9, 16, 4), (63, 65, 1024, 2)], ids=ident
)
def test_is_accurate(level: str, case: tuple[int, int, int, int]) -> None:
    """At most twice the error of a float32 product that float64 sketches, and that of sums in blocks of 64: about
    0.2 sqrt(64) + 0.2 sqrt(n / 64) roundings for n terms, 13 for one running sum of 4500."""
    d_out, d_in, k, repetitions = case
    sketch, lengths = Sketch("xorts", k, repetitions=repetitions), [1, 63, 1500 if d_in < 1000 else 40]
    x, g, cu = normal(sum(lengths), d_in), normal(sum(lengths), d_out, seed=1), bounds(lengths)
    exact = linear(x.double(), g.double(), cu, sketch, "reference")
    rough = torch.stack([b.T @ a for a, b in zip(x.split(lengths), g.split(lengths), strict=True)])
    found, peer = linear(x, g, cu, sketch), project(rough.double(), sketch, name="w")
    error, peers = ((z.double() - exact.sketch).square().mean(1).sqrt() for z in (found.sketch, peer))
    assert (error <= 2 * peers + 4 * EPS * exact.sketch.square().mean(1).sqrt()).all()
    torch.testing.assert_close(found.squared_norms, exact.squared_norms, rtol=8 * EPS * max(lengths) ** 0.5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", [(160, 130, 16), (40, 70, 64)], ids=ident)
def test_dtypes_and_layouts(level: str, case: tuple[int, int, int], dtype: torch.dtype) -> None:
    d_out, d_in, k = case
    sketch, tokens, cu = Sketch("xorts", k, repetitions=2), 75, bounds([30, 45])
    x, g = whole(tokens, d_in, dtype=dtype), whole(tokens, d_out, seed=1, dtype=dtype)
    expected = linear(x.double(), g.double(), cu, sketch, "reference")
    apart = torch.full((tokens, 3 * d_in + 1), 77, dtype=dtype)[:, 1 : 1 + d_in].copy_(x)
    layouts = {
        "plain": (x, g),
        "rows apart, unaligned": (apart, g),
        "transposed": (x.T.contiguous().T, g.T.contiguous().T),
        "mixed dtypes": (x.float(), g),
    }
    for what, tensors in layouts.items():
        assert torch.equal(linear(*tensors, cu, sketch).sketch, expected.sketch), what
    same = linear(x[:1].expand(tokens, d_in), g, cu, sketch)
    assert_same(same, linear(x[:1].repeat(tokens, 1), g, cu, sketch))


@pytest.mark.parametrize("case", [(160, 130, 16), (40, 70, 64)], ids=ident)
def test_offsets_beyond_32_bits(level: str, case: tuple[int, int, int]) -> None:
    d_out, d_in, k = case
    sketch, cu, step = Sketch("xorts", k), bounds([1, 2]), 2**30 + 2**29 + 7
    storage = torch.empty(2 * step + d_in, dtype=torch.bfloat16)
    far = storage.as_strided((3, d_in), (step, 1)).copy_(whole(3, d_in))
    g = whole(3, d_out, seed=1)
    assert_same(linear(far, g, cu, sketch), linear(far.clone(), g, cu, sketch))


def every_op(sketch: Sketch, x: Tensor, g: Tensor, ids: Tensor, cu: Tensor) -> dict[str, tuple]:
    a, b = normal(6, x.shape[1], seed=8), normal(g.shape[1], 6, seed=9)
    common = {"return_norms": True, "impl": "native"}
    return {
        "transformed": linear(x, g, cu, sketch),
        "moved": linear(x[:, :9], g, cu, sketch),
        "lora": grad_sketch_lora(x, g, a, b, cu, sketch, names=("a", "b"), scaling=0.3, **common),
        "embedding": grad_sketch_embedding(ids, g, cu, sketch, name="e", vocabulary=50, **common),
        "bias": grad_sketch_bias(g, cu, sketch, name="b", **common),
        "project": (project(g, sketch, name="p", shape=(9, 37), impl="native"),),
    }


def test_threads_neighbours_and_alignment_change_no_bits(level: str, restore_threads: None) -> None:
    """One sample has more tokens than 16 chunks of one block."""
    lengths, sketch = [7, 31, 1, 0, 64, 1300, *range(60, 70)], Sketch("xorts", 256, repetitions=2)
    cu, tokens = bounds(lengths), sum(lengths)
    x, g = normal(tokens, 150), normal(tokens, 333, seed=1)
    ids = torch.randint(0, 50, (tokens,), generator=torch.Generator().manual_seed(2))
    torch.set_num_threads(1)
    expected = every_op(sketch, x, g, ids, cu)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        for op, found in every_op(sketch, x, g, ids, cu).items():
            assert_same(found, expected[op])
    for order in ([5], [4, 1, 0], [0, 0, 5, 3], [*range(15, -1, -1)]):
        rows = torch.cat([torch.arange(int(cu[i]), int(cu[i + 1])) for i in order])
        some = bounds([lengths[i] for i in order])
        for op, found in every_op(sketch, x[rows], g[rows], ids[rows], some).items():
            assert_same(found, tuple(part[rows if op == "project" else order] for part in expected[op]))
    shifted = [torch.empty(tensor.numel() + 3)[3:].view(tensor.shape).copy_(tensor) for tensor in (x, g)]
    for op, found in every_op(sketch, *shifted, ids, cu).items():
        assert_same(found, expected[op])


def test_more_accumulators_than_are_held_at_once() -> None:
    sketch, samples = Sketch("xorts", 2**20), 40
    x, g, cu = whole(samples, 700), whole(samples, 900, seed=1), torch.arange(samples + 1)
    found = linear(x, g, cu, sketch).sketch
    for sample in (0, 17, 39):
        alone = linear(x[sample : sample + 1], g[sample : sample + 1], torch.tensor([0, 1]), sketch, "reference")
        assert torch.equal(found[sample], alone.sketch[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("width", [9, 150], ids=["moved", "transformed"])
def test_what_is_not_finite_stays_in_its_sample(level: str, width: int, value: float) -> None:
    """Also in a group of tokens that is not full."""
    x, g, cu = torch.ones(75, width), torch.ones(75, 333), bounds([3, 70, 2])
    x[2, width - 1] = value
    z, norms = linear(x, g, cu, Sketch("xorts", 256))
    assert z.isfinite().all(1).tolist() == norms.isfinite().tolist() == [False, True, True]


def test_nothing_to_sketch(level: str) -> None:
    for tokens, d_out, d_in, lengths in ((0, 3, 4, []), (0, 300, 300, [0, 0]), (5, 0, 4, [5]), (5, 3, 0, [2, 3])):
        z, norms = linear(torch.ones(tokens, d_in), torch.ones(tokens, d_out), bounds(lengths), Sketch("xorts", 64))
        assert z.shape == (len(lengths), 64)
        assert not z.any()
        assert not norms.any()
