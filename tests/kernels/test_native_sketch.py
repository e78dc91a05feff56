"""sjlt and rademacher of the native module, on every instruction set this processor has.

Whole numbers make every sum exact in float32, so there the reference must be met bit by bit; accuracy is tested apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from adaptinf_kernels import (
    NotSupportedError,
    Preconditioner,
    Sketch,
    build_info,
    grad_sketch_bias,
    grad_sketch_embedding,
    grad_sketch_linear,
    grad_sketch_lora,
    grad_sketch_norm,
    project,
)
from adaptinf_kernels.sketch import native as sketch_native
from adaptinf_kernels.sketch.preconditioner import direction
from torch import Tensor

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)

LEVELS = build_info()["cpu"]["levels"]
EPS = torch.finfo(torch.float32).eps
SKETCHES = [
    Sketch("sjlt", 1),
    Sketch("sjlt", 33),
    Sketch("sjlt", 60, nonzeros=4),
    Sketch("sjlt", 96, nonzeros=96),
    Sketch("sjlt", 1009, seed=3),
    Sketch("sjlt", 4096),
    Sketch("sjlt", 8192, nonzeros=2),
    Sketch("rademacher", 1),
    Sketch("rademacher", 33),
    Sketch("rademacher", 100, seed=2**63 - 1),
]
SHAPES = [
    (1, 1),
    (15, 17),
    (17, 15),
    (63, 1),
    (1, 500),
    (500, 63),
    (63, 500),
    (33, 130),
    (330, 9),
    (330, 150),
    (9, 1200),
]
"""The last two are cut into several blocks."""
LENGTHS = [0, 1, 63, 0, 500, 2]


def ident(sketch: Sketch) -> str:
    return f"{sketch.kind}-{sketch.k}-{sketch.nonzeros}"


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sketch_native, "CPU_LEVEL", request.param)
    return request.param


Call = Callable[[str], tuple[Tensor | None, ...]]
Check = Callable[[Call], tuple[Tensor | None, ...]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """Compare ``call(impl)`` of every instruction set with the reference, which is computed once, and return that."""

    def compare(call: Call) -> tuple[Tensor | None, ...]:
        expected = call("reference")
        for level in LEVELS:
            monkeypatch.setattr(sketch_native, "CPU_LEVEL", level)
            for one, other in zip(call("native"), expected, strict=True):
                assert (one is None) == (other is None), level
                assert one is None or torch.equal(one, other), level
        return expected

    return compare


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Whole numbers from -2 to 2: exact in every dtype, and so are sums of many of them."""
    return torch.randint(-2, 3, shape, generator=generator(seed)).to(dtype)


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])


def assert_same(found: tuple, expected: tuple) -> None:
    """Sketches (unscaled by a power of anything, so compared after the same multiplication) and norms."""
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


# The matrix, bit by bit


@pytest.mark.parametrize("sketch", SKETCHES, ids=ident)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_is_the_reference(check: Check, sketch: Sketch, shape: tuple[int, int]) -> None:
    x, g, cu = whole(sum(LENGTHS), shape[1]), whole(sum(LENGTHS), shape[0], seed=1), bounds(LENGTHS)
    sketches, _ = check(lambda impl: grad_sketch_linear(x, g, cu, sketch, name="w", return_norms=True, impl=impl))
    assert sketches is not None
    assert not sketches[torch.tensor(LENGTHS) == 0].any()


@pytest.mark.parametrize("sketch", SKETCHES, ids=ident)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 70_000), (2, 70_001), (70_001, 2)], ids=str)
def test_project_is_the_reference(check: Check, sketch: Sketch, shape: tuple[int, int]) -> None:
    if sketch.nonzeros > 4 and shape[0] * shape[1] > 10_000:
        pytest.skip("the reference takes long")
    gradients = whole(3, *shape)
    check(lambda impl: (project(gradients, sketch, name="w", impl=impl),))


@pytest.mark.parametrize("sketch", SKETCHES, ids=ident)
@pytest.mark.parametrize("rank", [1, 8, 31, 64, 130])
def test_lora_is_the_reference(check: Check, sketch: Sketch, rank: int) -> None:
    lengths = [3, 0, 17, 1]
    x, g, cu = whole(21, 50), whole(21, 67, seed=1), bounds(lengths)
    a, b = whole(rank, 50, seed=2), whole(67, rank, seed=3)
    for magnitude in (None, 1.0 * 2 ** torch.randint(-1, 2, (67,), generator=generator(4))):
        options = {"names": ("a", "b"), "scaling": 0.5, "magnitude": magnitude, "return_norms": True}
        check(lambda impl, kw=options: grad_sketch_lora(x, g, a, b, cu, sketch, impl=impl, **kw))


@pytest.mark.parametrize("sketch", SKETCHES, ids=ident)
def test_embedding_is_the_reference(check: Check, sketch: Sketch) -> None:
    lengths = [5, 0, 300, 1]
    for width, vocabulary in ((33, 7), (130, 200), (1, 2**31)):
        ids = torch.randint(0, vocabulary, (sum(lengths),), generator=generator(5))
        g = whole(len(ids), width)
        options = {"name": "e", "vocabulary": vocabulary, "padding_idx": int(ids[7]), "return_norms": True}
        check(
            lambda impl, i=ids, g=g, kw=options: grad_sketch_embedding(i, g, bounds(lengths), sketch, impl=impl, **kw)
        )


@pytest.mark.parametrize("sketch", SKETCHES, ids=ident)
def test_vectors_are_the_reference(check: Check, sketch: Sketch) -> None:
    cu = bounds(LENGTHS)
    for width in (1, 17, 130):
        g, factor = whole(sum(LENGTHS), width), whole(sum(LENGTHS), width, seed=6)
        arguments = {"sketch": sketch, "name": "v", "return_norms": True}
        for call in (
            lambda impl, g=g, kw=arguments: grad_sketch_bias(g, cu, impl=impl, **kw),
            lambda impl, g=g, f=factor, kw=arguments: grad_sketch_norm(f, g, cu, impl=impl, **kw),
        ):
            check(call)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sketch", [Sketch("sjlt", 64), Sketch("rademacher", 40)], ids=ident)
@pytest.mark.parametrize("shape", [(40, 70), (70, 20)], ids=str)
def test_dtypes_and_layouts(level: str, sketch: Sketch, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    tokens, (d_out, d_in) = 75, shape
    cu = bounds([30, 45])
    x, g = whole(tokens, d_in, dtype=dtype), whole(tokens, d_out, seed=1, dtype=dtype)
    expected = grad_sketch_linear(x.float(), g.float(), cu, sketch, name="w", impl="reference").sketch
    wide = torch.zeros(tokens, 3 * d_in + 1, dtype=dtype)
    wide[:, 1 : 1 + d_in] = x
    layouts = {
        "plain": (x, g),
        "rows apart, unaligned": (wide[:, 1 : 1 + d_in], g),
        "transposed": (x.T.contiguous().T, g.T.contiguous().T),
        "mixed dtypes": (x.float(), g),
    }
    for what, (one, other) in layouts.items():
        found = grad_sketch_linear(one, other, cu.int(), sketch, name="w", impl="native").sketch
        assert torch.equal(found, expected), what
    same = grad_sketch_linear(x[:1].expand(tokens, d_in), g, cu, sketch, name="w", impl="native").sketch
    again = grad_sketch_linear(x[:1].repeat(tokens, 1), g, cu, sketch, name="w", impl="native").sketch
    assert torch.equal(same, again)
    batch = whole(4, d_out * d_in, dtype=dtype)
    views = (batch, batch[::2], batch.T.contiguous().T, batch[:1].expand(3, -1))
    for view in views:
        found = project(view, sketch, name="w", shape=shape, impl="native")
        assert torch.equal(found, project(view.float(), sketch, name="w", shape=shape, impl="reference"))


def test_every_float16_and_bfloat16_is_widened_as_torch_does(level: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        found = project(numbers[:, None], Sketch("sjlt", 1), name="w", impl="native")[:, 0]
        sign = project(torch.ones(1, 1), Sketch("sjlt", 1), name="w", impl="reference")[0, 0]
        expected = numbers.float() * sign
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.nan_to_num(0.0), expected.nan_to_num(0.0))


@pytest.mark.parametrize("sketch", [Sketch("sjlt", 64), Sketch("rademacher", 40)], ids=ident)
def test_offsets_beyond_32_bits(level: str, sketch: Sketch) -> None:
    step, rows, width = 2**30 + 2**29 + 7, 3, 40
    storage = torch.empty(step * (rows - 1) + width, dtype=torch.bfloat16)
    far = storage.as_strided((rows, width), (step, 1))
    far.copy_(whole(rows, width, dtype=torch.bfloat16))
    near, cu, g = far.clone(), bounds([1, 2]), whole(rows, 50, seed=1)
    for one, other in ((far, g), (g, far)):
        plain = [near if tensor is far else tensor for tensor in (one, other)]
        found = grad_sketch_linear(one, other, cu, sketch, name="w", impl="native")
        assert_same(found, grad_sketch_linear(*plain, cu, sketch, name="w", impl="native"))
    assert torch.equal(project(far, sketch, impl="native"), project(near, sketch, impl="native"))


@pytest.mark.parametrize("sketch", [Sketch("sjlt", 64), Sketch("rademacher", 40)], ids=ident)
def test_nothing_to_sketch(level: str, sketch: Sketch) -> None:
    for tokens, d_out, d_in, lengths in ((0, 3, 4, []), (0, 3, 4, [0, 0]), (5, 0, 4, [5]), (5, 3, 0, [2, 3])):
        found = grad_sketch_linear(
            torch.ones(tokens, d_in),
            torch.ones(tokens, d_out),
            bounds(lengths),
            sketch,
            name="w",
            return_norms=True,
            impl="native",
        )
        assert found.sketch.shape == (len(lengths), 64 if sketch.kind == "sjlt" else 40)
        assert not found.sketch.any()
        assert not found.squared_norms.any()
    assert project(torch.ones(0, 5), sketch, impl="native").shape[0] == 0
    assert not project(torch.ones(2, 0), sketch, impl="native").any()


# Accuracy


def assert_accurate(found: Tensor, reference: Tensor, exact: Tensor, magnitude: Tensor, terms: float) -> None:
    """Errors of ``terms`` roundings of numbers of that magnitude [B], and no more than twice the reference's."""
    assert ((found - exact).abs() <= 4 * EPS * terms**0.5 * magnitude[:, None]).all()
    rounding = EPS * magnitude.square().mean().sqrt()
    assert (found - exact).square().mean().sqrt() <= 2 * (reference - exact).square().mean().sqrt() + rounding


def terms_of(sketch: Sketch, shape: tuple[int, int], tokens: int) -> float:
    """Roundings behind one number of a sketch."""
    entries = shape[0] * shape[1]
    return tokens + 8 + (entries if sketch.kind == "rademacher" else entries * sketch.nonzeros / sketch.k)


@pytest.mark.parametrize(
    "sketch", [Sketch("sjlt", 512), Sketch("sjlt", 60, nonzeros=4), Sketch("rademacher", 64)], ids=ident
)
@pytest.mark.parametrize("shape", [(70, 90), (200, 8)], ids=str)
def test_linear_is_accurate(level: str, sketch: Sketch, shape: tuple[int, int]) -> None:
    lengths = [1, 63, 700]
    cu = bounds(lengths)
    x, g = (torch.randn(sum(lengths), d, generator=generator(7)) + 0.3 for d in (shape[1], shape[0]))
    exact = grad_sketch_linear(x.double(), g.double(), cu, sketch, name="w", return_norms=True)
    found, reference = (
        grad_sketch_linear(x, g, cu, sketch, name="w", return_norms=True, impl=impl) for impl in ("native", "reference")
    )
    sizes = (x.norm(dim=1) * g.norm(dim=1)).split(lengths)
    magnitude = torch.stack([size.sum() for size in sizes]) / sketch.k**0.5
    assert_accurate(found.sketch, reference.sketch, exact.sketch, magnitude, terms_of(sketch, shape, max(lengths)))
    torch.testing.assert_close(found.squared_norms, exact.squared_norms, rtol=8 * EPS * max(lengths) ** 0.5, atol=0)


def preconditioners(shape: tuple[int, int], dtype: torch.dtype) -> list[Preconditioner]:
    first = (torch.randn(shape, generator=generator(8)) * 0.1).to(dtype)
    second = torch.rand(shape, generator=generator(9)).to(dtype)
    return [
        Preconditioner.diagonal(second),
        Preconditioner.less(first, second, eps=1e-6),
        Preconditioner.adam(first, second, step=1, beta1=0.8, beta2=0.95),
        Preconditioner.adam(first, second, step=10**6),
    ]


@pytest.mark.parametrize("sketch", [Sketch("sjlt", 512), Sketch("rademacher", 64)], ids=ident)
@pytest.mark.parametrize("shape", [(70, 90), (200, 9), (1, 50)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_preconditioners(level: str, sketch: Sketch, shape: tuple[int, int], dtype: torch.dtype) -> None:
    lengths = [20, 0, 61]
    cu = bounds(lengths)
    x, g = (torch.randn(sum(lengths), d, generator=generator(7)) for d in (shape[1], shape[0]))
    for wanted in preconditioners(shape, dtype):
        kinds = {"plain": wanted, "transposed": _map(wanted, lambda moment: moment.T.contiguous().T)}
        spans = ((a, b) for a, b in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True))
        exact = torch.stack(
            [
                direction(g[a:b].double().T @ x[a:b].double(), wanted.arguments)
                if b > a
                else torch.zeros(shape, dtype=torch.float64)
                for a, b in spans
            ]
        )
        for given in kinds.values():
            found, reference = (
                grad_sketch_linear(x, g, cu, sketch, name="w", preconditioner=given, return_norms=True, impl=impl)
                for impl in ("native", "reference")
            )
            expected = project(exact, sketch, name="w")
            magnitude = exact.flatten(1).norm(dim=1) / sketch.k**0.5
            assert_accurate(found.sketch, reference.sketch, expected, magnitude, terms_of(sketch, shape, 200))
            torch.testing.assert_close(
                found.squared_norms, exact.square().sum((1, 2)).float(), rtol=8 * EPS * 200**0.5, atol=0
            )


def _map(preconditioner: Preconditioner, change) -> Preconditioner:
    first, second = preconditioner.first, preconditioner.second
    values = {**vars(preconditioner), "first": None if first is None else change(first), "second": change(second)}
    return Preconditioner(**values)


@pytest.mark.parametrize("sketch", [Sketch("sjlt", 512), Sketch("rademacher", 64)], ids=ident)
def test_preconditioners_of_lora_and_vectors(level: str, sketch: Sketch) -> None:
    lengths, rank, d_in, d_out = [20, 0, 61], 5, 30, 80
    cu = bounds(lengths)
    x, g = (torch.randn(sum(lengths), d, generator=generator(7)) for d in (d_in, d_out))
    a, b = (torch.randn(shape, generator=generator(8)) for shape in ((rank, d_in), (d_out, rank)))
    for of_a, of_b in zip(
        preconditioners((rank, d_in), torch.float32), preconditioners((d_out, rank), torch.float32), strict=True
    ):
        exact, found, reference = (
            grad_sketch_lora(
                *(tensor.to(dtype) for tensor in (x, g, a, b)),
                cu,
                sketch,
                names=("a", "b"),
                scaling=0.3,
                preconditioners=(of_a, of_b),
                return_norms=True,
                impl=impl,
            )
            for impl, dtype in (("reference", torch.float64), ("native", torch.float32), ("reference", torch.float32))
        )
        magnitude = (exact.squared_norms / sketch.k).sqrt()
        terms = terms_of(sketch, (rank, d_in + d_out), 200)
        assert_accurate(found.sketch, reference.sketch, exact.sketch, magnitude, terms)
        torch.testing.assert_close(found.squared_norms, exact.squared_norms, rtol=8 * EPS * 200**0.5, atol=0)
    for of_vector in preconditioners((1, d_out), torch.float32):
        exact, found, reference = (
            grad_sketch_bias(g.to(dtype), cu, sketch, name="v", preconditioner=of_vector, return_norms=True, impl=impl)
            for impl, dtype in (("reference", torch.float64), ("native", torch.float32), ("reference", torch.float32))
        )
        magnitude = (exact.squared_norms / sketch.k).sqrt()
        assert_accurate(found.sketch, reference.sketch, exact.sketch, magnitude, terms_of(sketch, (1, d_out), 100))
        assert not found.sketch[1].any()


# The same bits


def every_op(sketch: Sketch, x: Tensor, g: Tensor, ids: Tensor, cu: Tensor) -> dict[str, tuple]:
    a, b = (torch.randn(shape, generator=generator(8)) for shape in ((6, x.shape[1]), (g.shape[1], 6)))
    common = {"return_norms": True, "impl": "native"}
    wanted = preconditioners((g.shape[1], x.shape[1]), torch.float32)[1]
    return {
        "linear": grad_sketch_linear(x, g, cu, sketch, name="w", **common),
        "preconditioned": grad_sketch_linear(x, g, cu, sketch, name="w", preconditioner=wanted, **common),
        "thin": grad_sketch_linear(x[:, :9], g, cu, sketch, name="w", **common),
        "lora": grad_sketch_lora(x, g, a, b, cu, sketch, names=("a", "b"), scaling=0.3, **common),
        "embedding": grad_sketch_embedding(ids, g, cu, sketch, name="e", vocabulary=50, **common),
        "bias": grad_sketch_bias(g, cu, sketch, name="b", **common),
        "project": (project(g, sketch, name="p", impl="native"),),
    }


@pytest.mark.parametrize("sketch", [Sketch("sjlt", 300, nonzeros=3), Sketch("rademacher", 70)], ids=ident)
def test_threads_neighbours_and_alignment_change_no_bits(level: str, sketch: Sketch, restore_threads: None) -> None:
    lengths = [7, 31, 1, 0, 64, 300, *range(2, 32)]
    cu, tokens = bounds(lengths), sum(lengths)
    x, g = (torch.randn(tokens, d, generator=generator(1)) for d in (150, 333))
    ids = torch.randint(0, 50, (tokens,), generator=generator(2))
    torch.set_num_threads(1)
    expected = every_op(sketch, x, g, ids, cu)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        for op, found in every_op(sketch, x, g, ids, cu).items():
            assert_same(found, expected[op])
    for order in ([5], [4, 1, 0], [0, 0, 5, 3], [*range(35, -1, -1)]):
        rows = torch.cat([torch.arange(int(cu[i]), int(cu[i + 1])) for i in order])
        some = bounds([lengths[i] for i in order])
        for op, found in every_op(sketch, x[rows], g[rows], ids[rows], some).items():
            chosen = rows if op == "project" else order
            assert_same(found, tuple(part[chosen] for part in expected[op]))
    shifted = [torch.empty(tensor.numel() + 3)[3:].view(tensor.shape).copy_(tensor) for tensor in (x, g)]
    for op, found in every_op(sketch, *shifted, ids, cu).items():
        assert_same(found, expected[op])


def test_many_samples_with_wide_sketches() -> None:
    """More accumulators than are held at once."""
    sketch, samples = Sketch("sjlt", 2**20), 40
    x, g, cu = whole(samples, 700), whole(samples, 900, seed=1), torch.arange(samples + 1)
    found = grad_sketch_linear(x, g, cu, sketch, name="w", impl="native").sketch
    for sample in (0, 17, 39):
        alone = grad_sketch_linear(
            x[sample : sample + 1], g[sample : sample + 1], torch.tensor([0, 1]), sketch, name="w", impl="reference"
        )
        assert torch.equal(found[sample], alone.sketch[0])


@pytest.mark.parametrize("sketch", [Sketch("sjlt", 64), Sketch("rademacher", 40)], ids=ident)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_sample(level: str, sketch: Sketch, value: float) -> None:
    lengths = [3, 70]
    x, g, cu = torch.ones(73, 45), torch.ones(73, 37), bounds(lengths)
    x[1, 44] = value
    ids = torch.arange(73) % 20
    for what, (z, norms) in {
        k: v for k, v in every_op(sketch, x, g, ids, cu).items() if k in ("linear", "lora")
    }.items():
        assert not z[0].isfinite().all(), what
        assert not norms[0].isfinite(), what
        assert z[1].isfinite().all(), what
        assert norms[1].isfinite(), what


# Limits


@pytest.mark.parametrize(
    ("sketch", "dtype", "reason"),
    [
        (Sketch("kron", 4096), torch.float32, "two matrix products"),
        (Sketch("sjlt"), torch.float64, "not torch.float64"),
    ],
)
def test_limits_have_reasons(sketch: Sketch, dtype: torch.dtype, reason: str) -> None:
    x, cu = torch.ones(4, 70, dtype=dtype), bounds([4])
    with pytest.raises(NotSupportedError, match=reason):
        grad_sketch_linear(x, x, cu, sketch, name="w", impl="native")
    with pytest.raises(NotSupportedError, match=reason):
        project(x, sketch, shape=(7, 10), impl="native")
    assert grad_sketch_linear(x, x, cu, sketch, name="w").sketch.isfinite().all()
