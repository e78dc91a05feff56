"""The sketches against their definition, an explicit matrix, exact gradients and their closed-form statistics."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from adaptinf_kernels import Sketch, grad_sketch_linear, project, signs
from adaptinf_kernels.grad_sketch.reference import walsh_hadamard
from adaptinf_kernels.philox.api import philox
from adaptinf_kernels.sketch import columns, tables
from adaptinf_kernels.sketch.definition import philox_key

KINDS = [
    Sketch("sjlt", 64),
    Sketch("sjlt", 51, nonzeros=7, seed=5),
    Sketch("sjlt", 33, nonzeros=1),
    Sketch("rademacher", 77),
    Sketch("xorts", 64),
    Sketch("xorts", 16, repetitions=3),
    Sketch("xorts", 1),
    Sketch("kron", 24, min_side=1),
]
FROZEN = {
    Sketch("sjlt", 64): "af5229f05843a445",
    Sketch("sjlt", 50, nonzeros=7, seed=5): "5e8ed0611258389a",
    Sketch("rademacher", 50, seed=1): "3a98d17ce15c498c",
    Sketch("xorts", 64, repetitions=2): "874acd7465ce6d4a",
    Sketch("kron", 64, min_side=1, seed=2**63 - 1): "825f505fcaae16fc",
}
EPS32 = torch.finfo(torch.float32).eps


def ident(sketch: Sketch) -> str:
    return f"{sketch.kind}-{sketch.k}-{sketch.nonzeros}-{sketch.repetitions}"


def matrix(sketch: Sketch, name: str, shape: tuple[int, int]) -> np.ndarray:
    """S [k, d_out * d_in], entry by entry from Philox words as the docstrings define it."""
    key, k, (d_out, d_in) = philox_key(sketch.seed, name), sketch.k, shape
    S = np.zeros((k, d_out * d_in))
    if sketch.kind == "rademacher":
        S[:] = signs(sketch.seed, name, k, d_out * d_in, impl="reference").numpy()
        return S / k**0.5
    if sketch.kind == "sjlt":
        s = sketch.nonzeros
        for column in range(d_out * d_in):
            for t in range(s):
                word = int(philox(key, column, 1, word2=t // 4, word3=1, impl="reference")[0, t % 4])
                first, last = t * k // s, (t + 1) * k // s
                S[first + ((word >> 1) * (last - first) >> 31), column] += -1 if word & 1 else 1
        return S / s**0.5
    if sketch.kind == "kron":
        p_out, p_in = sketch.sides
        left = signs(sketch.seed, name, p_out, d_out, domain=3, impl="reference").numpy().astype(float)
        right = signs(sketch.seed, name, p_in, d_in, domain=4, impl="reference").numpy().astype(float)
        return np.kron(left, right) / k**0.5
    for repetition in range(sketch.repetitions):
        bucket, sign = {}, {}
        for side, size in ((0, d_out), (1, d_in)):
            for chunk in range(-(-size // k)):
                words = philox(key, chunk * k, k, word2=2 * repetition + side, word3=2, impl="reference").tolist()
                ranked = sorted(range(k), key=lambda i: (words[i][0], i))
                for rank, i in enumerate(ranked):
                    bucket[side, chunk * k + i] = rank
                    sign[side, chunk * k + i] = -1 if words[i][1] & 1 else 1
        for r in range(d_out):
            for c in range(d_in):
                S[bucket[0, r] ^ bucket[1, c], r * d_in + c] += sign[0, r] * sign[1, c]
    return S / sketch.repetitions**0.5


def samples(lengths: list[int], d_in: int, d_out: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(lengths), d_in, generator=generator).to(dtype)
    g = torch.randn(sum(lengths), d_out, generator=generator).to(dtype)
    return x, g, torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


def gradients(x: torch.Tensor, g: torch.Tensor, cu: torch.Tensor) -> torch.Tensor:
    """Explicit per-sample gradients [B, d_out, d_in] in float64."""
    x, g = x.double(), g.double()
    return torch.stack([g[a:b].T @ x[a:b] for a, b in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True)])


def assert_near(found: torch.Tensor, exact: torch.Tensor, magnitude: torch.Tensor, terms: int) -> None:
    """Within the probable error of ``terms`` float32 roundings of numbers of that magnitude."""
    bound = 8 * EPS32 * (terms**0.5 + 4) * magnitude
    assert ((found.double() - exact).abs() <= bound + 1e-30).all(), ((found - exact).abs() / (bound + 1e-30)).max()


@pytest.mark.parametrize("sketch", KINDS, ids=ident)
@pytest.mark.parametrize("shape", [(5, 7), (1, 40), (40, 1), (70, 3)], ids=str)
def test_project_is_the_defined_matrix(sketch: Sketch, shape: tuple[int, int]) -> None:
    gradient = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = gradient.flatten(1).numpy() @ matrix(sketch, "w", shape).T
    found = project(gradient, sketch, name="w")
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=4 * EPS32, atol=4 * EPS32 * np.abs(expected).max())


@pytest.mark.parametrize("sketch", KINDS, ids=ident)
@pytest.mark.parametrize(
    ("lengths", "d_in", "d_out"),
    [([1], 9, 5), ([63], 40, 70), ([500], 12, 3), ([0, 3, 0, 1, 29, 0], 33, 17), ([2, 2], 1, 1), ([5, 0], 130, 129)],
    ids=str,
)
def test_grad_sketch_is_project_of_the_explicit_gradients(
    sketch: Sketch, lengths: list[int], d_in: int, d_out: int
) -> None:
    x, g, cu = samples(lengths, d_in, d_out)
    exact = gradients(x, g, cu)
    z, norms = grad_sketch_linear(x, g, cu, sketch, name="layer", return_norms=True)
    assert z.shape == (len(lengths), sketch.k)
    assert z.dtype == norms.dtype == torch.float32
    # |z| is at most the entries' absolute sum through |S|; what is rounded is the sum over tokens of |g||x|
    sizes = g.double().norm(dim=1) * x.double().norm(dim=1)
    magnitude = torch.stack([part.sum() for part in sizes.split(lengths)])
    found, expected = z, project(exact, sketch, name="layer").double()
    assert_near(found, expected, magnitude[:, None] * max(1, sketch.scale), max(lengths) + 12)
    assert_near(norms, exact.square().sum((1, 2)), magnitude.square(), max(lengths) + 4)
    assert not z[torch.tensor(lengths) == 0].any()
    assert torch.equal(grad_sketch_linear(x, g, cu, sketch, name="layer"), z)


@pytest.mark.parametrize("sketch", KINDS, ids=ident)
def test_a_sample_does_not_see_its_neighbours(sketch: Sketch) -> None:
    lengths = [7, 31, 1, 0, 64, 5]
    x, g, cu = samples(lengths, 37, 19)
    z, norms = grad_sketch_linear(x, g, cu, sketch, name="w", return_norms=True)
    spans = list(zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True))
    for order in ([0], [4], [4, 1, 0], [5, 4, 3, 2, 1, 0], [1] * 4):
        rows = torch.cat([torch.arange(*spans[i]) for i in order])
        some = torch.tensor([0, *np.cumsum([lengths[i] for i in order])])
        again, again_norms = grad_sketch_linear(x[rows], g[rows], some, sketch, name="w", return_norms=True)
        assert torch.equal(again, z[order])
        assert torch.equal(again_norms, norms[order])
    batch = gradients(x, g, cu).float()
    whole = project(batch, sketch, name="w")
    assert torch.equal(torch.cat([project(batch[i : i + 1], sketch, name="w") for i in range(len(lengths))]), whole)


@pytest.mark.parametrize("sketch", KINDS[:1] + KINDS[3:5] + KINDS[-1:], ids=ident)
def test_the_layout_in_memory_does_not_matter(sketch: Sketch) -> None:
    x, g, cu = samples([11, 20], 30, 14)
    expected = grad_sketch_linear(x, g, cu, sketch, name="w")
    wide_x, wide_g = torch.full((62, 90), torch.nan), torch.full((14, 31, 2), torch.nan)
    wide_x[::2, ::3], wide_g[:, :, 1] = x, g.T
    for other_x, other_g in ((x.T.contiguous().T, g), (wide_x[::2, ::3], wide_g[:, :, 1].T), (x.flip(0).flip(0), g)):
        assert torch.equal(grad_sketch_linear(other_x, other_g, cu.long(), sketch, name="w"), expected)
    batch = gradients(x, g, cu).float()
    permuted = batch.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(project(permuted, sketch, name="w"), project(batch, sketch, name="w"))
    assert torch.equal(project(batch.flatten(1), sketch, name="w", shape=(14, 30)), project(batch, sketch, name="w"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("sketch", KINDS[:1] + KINDS[3:5] + KINDS[-1:], ids=ident)
def test_low_precision_inputs_are_summed_in_float32(sketch: Sketch, dtype: torch.dtype) -> None:
    x, g, cu = samples([200, 50], 20, 30, dtype)
    z, wide = (grad_sketch_linear(*parts, cu, sketch, name="w") for parts in ((x, g), (x.float(), g.float())))
    assert z.dtype == torch.float32
    if dtype == torch.float64:
        exact = project(gradients(x, g, cu), sketch, name="w")
        assert (z - exact).abs().max() <= 2 * EPS32 * exact.abs().max()
    else:
        assert torch.equal(z, wide)


@pytest.mark.parametrize("kind", ["sjlt", "rademacher", "xorts"])
def test_blocks_of_a_large_parameter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables in pieces, too large for the cache, name the same matrix."""
    sketch = Sketch(kind, 32)
    x, g, cu = samples([9, 4], 21, 50)
    expected = grad_sketch_linear(x, g, cu, sketch, name="w", return_norms=True)
    whole = project(gradients(x, g, cu), sketch, name="w")
    monkeypatch.setattr(columns, "_ENTRIES", 21 * 4 * 3)
    monkeypatch.setattr(tables, "_cache", tables._Cache(500))
    assert len(list(columns.row_blocks(sketch, (50, 21)))) > 4
    for found, value in zip(grad_sketch_linear(x, g, cu, sketch, name="w", return_norms=True), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(project(gradients(x, g, cu), sketch, name="w"), whole, rtol=1e-6, atol=1e-6)
    assert tables._cache.bytes <= 500


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    cache = tables._Cache(100)
    made: list[int] = []

    def get(i: int, size: int = 40) -> torch.Tensor:
        return cache.get((i,), lambda: made.append(i) or torch.full((size,), i, dtype=torch.int8))

    get(1), get(2), get(1), get(3), get(1)
    assert made == [1, 2, 3]
    assert get(2)[0] == 2
    assert made == [1, 2, 3, 2]
    get(9, size=101), get(9, size=101)
    assert made[-2:] == [9, 9]
    assert cache.bytes <= 100


def test_add_to_sums_over_parameters() -> None:
    sketch = Sketch("sjlt", 32)
    x, g, cu = samples([5, 6], 8, 9)
    total = torch.ones(2, 32)
    for name in ("a", "b"):
        assert grad_sketch_linear(x, g, cu, sketch, name=name, add_to=total) is total
    expected = 1 + sum(grad_sketch_linear(x, g, cu, sketch, name=name) for name in ("a", "b"))
    torch.testing.assert_close(total, expected)
    with pytest.raises(ValueError, match="add_to"):
        grad_sketch_linear(x, g, cu, sketch, name="a", add_to=torch.zeros(3, 32))


def test_a_bias_is_the_weight_of_ones() -> None:
    sketch = Sketch("xorts", 32)
    _, g, cu = samples([5, 6], 1, 9)
    z = grad_sketch_linear(torch.ones(11, 1), g, cu, sketch, name="bias")
    sums = torch.stack([g[:5].sum(0), g[5:].sum(0)])
    torch.testing.assert_close(z, project(sums[:, :, None], sketch, name="bias"), rtol=1e-5, atol=1e-5)


def test_unscaled_entries_are_signs() -> None:
    for sketch, per_column in (
        (Sketch("sjlt", 40, nonzeros=3), 3),
        (Sketch("rademacher", 40), 40),
        (Sketch("kron", 24, min_side=1), 24),
    ):
        S = project(torch.eye(30), sketch, name="w", shape=(5, 6), scale=False)
        assert ((S.abs().sum(1) == per_column) & (S.abs().amax(1) == 1)).all()
        torch.testing.assert_close(S * sketch.scale, project(torch.eye(30), sketch, name="w", shape=(5, 6)))


@pytest.mark.parametrize(("k", "s"), [(64, 4), (51, 7), (8, 8), (10, 10), (5, 1)])
def test_sjlt_has_s_distinct_rows_per_column(k: int, s: int) -> None:
    S = project(torch.eye(2000), Sketch("sjlt", k, nonzeros=s), name="w", scale=False)
    assert ((S != 0).sum(1) == s).all()
    # every row is hit as often as binomial chance allows (five standard errors), with both signs
    hits, expected = (S != 0).sum(0).double(), 2000 * s / k
    slack = 5 * expected**0.5 + 1 + expected * (k / s / (k // s) - 1)
    assert (hits - expected).abs().max() <= slack
    assert S.sum().abs() < 5 * (2000 * s) ** 0.5


def test_xorts_buckets_are_permutations_and_do_not_depend_on_the_size() -> None:
    sketch = Sketch("xorts", 16, repetitions=2)
    codes = tables.xorts_codes(sketch, "w", 0, 50, torch.device("cpu"))
    for first in (0, 16, 32):
        assert ((codes[:, first : first + 16] & 15).sort().values == torch.arange(16)).all()
    assert torch.equal(tables.xorts_codes(sketch, "w", 0, 21, torch.device("cpu")), codes[:, :21])
    assert not torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[:, :16], codes[:, 16:32])


@pytest.mark.parametrize("k", [1, 2, 8, 64, 128, 1024])
def test_walsh_hadamard(k: int) -> None:
    rows = torch.randn(3, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    i = torch.arange(k)
    parity = i[:, None] & i[None, :]
    for shift in (8, 4, 2, 1):
        parity ^= parity >> shift
    torch.testing.assert_close(walsh_hadamard(rows), rows @ (1.0 - 2 * (parity & 1)).double())


def test_walsh_hadamard_is_its_own_inverse() -> None:
    rows = torch.randn(2, 8192, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(walsh_hadamard(walsh_hadamard(rows)) / 8192, rows)


# Statistics. Over independent matrices (one per name) the estimate <Su, Sv> has mean <u, v> and the variance below.


def estimates(sketch: Sketch, u: torch.Tensor, v: torch.Tensor, trials: int) -> torch.Tensor:
    pair = torch.stack([u, v]).float()
    z = [project(pair, sketch, name=str(trial)).double() for trial in range(trials)]
    return torch.stack([(a * b).sum() for a, b in z])


PAIRS = {
    "dense": (lambda g: torch.randn(12, 10, generator=g), lambda g: torch.randn(12, 10, generator=g)),
    "rank one": (lambda g: torch.outer(torch.randn(12, generator=g), torch.ones(10)), lambda g: torch.ones(12, 10)),
    "one entry": (lambda g: torch.zeros(12, 10).index_fill_(0, torch.tensor(3), 1), lambda g: torch.ones(12, 10)),
    "row": (lambda g: torch.randn(1, 120, generator=g), lambda g: torch.randn(1, 120, generator=g)),
    "column": (lambda g: torch.randn(120, 1, generator=g), lambda g: torch.randn(120, 1, generator=g)),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    "sketch",
    [
        Sketch("sjlt", 16),
        Sketch("sjlt", 16, nonzeros=1),
        Sketch("rademacher", 16),
        Sketch("xorts", 16),
        Sketch("xorts", 16, repetitions=3),
        Sketch("kron", 16, min_side=1),
    ],
    ids=ident,
)
def test_inner_products_are_unbiased_for_every_shape(sketch: Sketch, pair: str) -> None:
    generator = torch.Generator().manual_seed(0)
    u, v = (make(generator) for make in PAIRS[pair])
    found = estimates(sketch, u, v, 400)
    for value, truth in ((found, (u * v).sum()), (estimates(sketch, u, u, 400), (u * u).sum())):
        assert (value.mean() - truth).abs() < 5 * value.std() / 400**0.5 + 1e-4 * truth.abs()


@pytest.mark.parametrize(
    "sketch",
    [Sketch("rademacher", 16), Sketch("sjlt", 16), Sketch("sjlt", 16, nonzeros=1), Sketch("sjlt", 16, nonzeros=16)],
    ids=ident,
)
def test_variance_is_the_closed_form(sketch: Sketch) -> None:
    generator = torch.Generator().manual_seed(1)
    trials = 2000
    u, v = torch.randn(40, generator=generator), torch.randn(40, generator=generator) + 0.5
    found = estimates(sketch, u[None], v[None], trials)
    expected = ((u @ u) * (v @ v) + (u @ v) ** 2 - 2 * (u**2 * v**2).sum()) / 16
    # relative standard error of a sample variance: sqrt((kurtosis - 1) / n)
    kurtosis = ((found - found.mean()) ** 4).mean() / found.var() ** 2
    assert abs(found.var() / expected - 1) < 5 * ((kurtosis - 1) / trials) ** 0.5


def test_modules_use_independent_matrices() -> None:
    u = torch.randn(1, 300, generator=torch.Generator().manual_seed(2))
    for kind in ("sjlt", "rademacher"):
        z = [
            torch.stack([project(u, Sketch(kind, 16, seed=seed), name=name)[0] for seed in range(400)]) for name in "ab"
        ]
        products = (z[0] * z[1]).sum(1)
        assert products.mean().abs() < 5 * products.std() / 20


# The definition object


@pytest.mark.parametrize("sketch", FROZEN, ids=ident)
def test_frozen_matrices(sketch: Sketch) -> None:
    """A change here makes stored features wrong: then ``LAYOUT`` must change too."""
    S = project(torch.eye(40 * 90).view(-1, 40, 90), sketch, name="layer.weight", scale=False).to(torch.int8)
    assert hashlib.sha256(S.numpy().tobytes()).hexdigest()[:16] == FROZEN[sketch]


def test_identity_and_digest() -> None:
    sketch = Sketch(kind="sjlt", k=256, seed=7)
    assert json.loads(json.dumps(sketch.identity)) == {"layout": 1, "kind": "sjlt", "k": 256, "seed": 7, "nonzeros": 4}
    assert sketch.digest == "27118e34c6d3e387baf16dc9251b596d3c3b54804202a3cdeec598b641678dd2"
    others = [
        Sketch("sjlt", 256), Sketch("sjlt", 128, seed=7), Sketch("sjlt", 256, seed=7, nonzeros=2),
        Sketch("xorts", 256, seed=7),
        Sketch("xorts", 256, seed=7, repetitions=2), Sketch("rademacher", 256, seed=7),
        Sketch("kron", 256, seed=7, min_side=1),
    ]  # fmt: skip
    assert len({sketch.digest, *(other.digest for other in others)}) == 8
    assert Sketch("kron", 4096).digest == Sketch("kron", 4096, min_side=2).digest
    assert Sketch(*sketch.arguments) == sketch
    assert hash(Sketch(*sketch.arguments)) == hash(sketch)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sketch.k = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("k", "sides"), [(4096, (64, 64)), (8192, (64, 128)), (24, (4, 6)), (7, (1, 7)), (1, (1, 1)), (2, (1, 2))]
)
def test_kron_sides(k: int, sides: tuple[int, int]) -> None:
    assert Sketch("kron", k, min_side=1).sides == sides


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "gaussian"}, "choose from sjlt"),
        ({"k": 0}, "k=0"),
        ({"k": 2**31}, "k="),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63}, "seed="),
        ({"nonzeros": 0}, "nonzeros=0"),
        ({"k": 3}, "nonzeros=4"),
        ({"kind": "rademacher", "nonzeros": 2}, "of kind 'sjlt' alone"),
        ({"kind": "xorts", "k": 100}, "power of two for kind 'xorts'; take 64 or 128"),
        ({"kind": "xorts", "repetitions": 5}, "repetitions=5"),
        ({"repetitions": 2}, "of kind 'xorts' alone"),
        ({"kind": "kron", "k": 1024}, "32 x 32"),
        ({"kind": "kron", "k": 8191}, "1 x 8191"),
    ],
)
def test_impossible_sketches(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sketch(**fields)


@pytest.mark.parametrize("fields", [{"k": 3.0}, {"seed": "1"}, {"k": True}])
def test_fields_are_integers(fields: dict) -> None:
    with pytest.raises(TypeError, match="must be an int"):
        Sketch(**fields)


# Bad arguments

S = Sketch("sjlt", 16)
X, G = torch.zeros(5, 3), torch.zeros(5, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: project(torch.zeros(3), S), ValueError, r"\[3\]"),
        (lambda: project(torch.zeros(2, 3, dtype=torch.int64), S), TypeError, "int64"),
        (lambda: project(torch.zeros(2, 6), S, shape=(2, 2)), ValueError, "6 entries"),
        (lambda: project(torch.zeros(2, 6), Sketch("xorts", 16)), ValueError, "give shape="),
        (lambda: project(torch.zeros(2, 6), S, impl="native"), RuntimeError, "only reference"),
        (lambda: grad_sketch_linear(X, G[:4], torch.tensor([0, 5]), S, name=""), ValueError, r"\[4, 2\]"),
        (lambda: grad_sketch_linear(X.int(), G, torch.tensor([0, 5]), S, name=""), TypeError, "int32"),
        (lambda: grad_sketch_linear(X, G, torch.tensor([0, 4]), S, name=""), ValueError, "T=5"),
        (lambda: grad_sketch_linear(X, G, torch.tensor([1, 5]), S, name=""), ValueError, "from 1 to 5"),
        (lambda: grad_sketch_linear(X, G, torch.tensor([0, 4, 2, 5]), S, name=""), ValueError, "segment 1 is 4 to 2"),
        (lambda: grad_sketch_linear(X, G, torch.tensor([[0, 5]]), S, name=""), ValueError, "B"),
        (lambda: grad_sketch_linear(X, G, torch.tensor([0.0, 5.0]), S, name=""), TypeError, "float32"),
        (lambda: grad_sketch_linear(X, G, torch.tensor([], dtype=torch.int64), S, name=""), ValueError, "B"),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_nothing_to_sketch() -> None:
    for sketch in KINDS:
        assert project(torch.zeros(0, 2, 3), sketch, name="w").shape == (0, sketch.k)
        assert not project(torch.zeros(2, 0, 3), sketch, name="w").any()
        z = grad_sketch_linear(torch.zeros(0, 3), torch.zeros(0, 2), torch.tensor([0]), sketch, name="w")
        assert z.shape == (0, sketch.k)


def test_a_nan_stays_in_its_sample() -> None:
    x, g, cu = samples([3, 4], 5, 6)
    x[0, 0] = torch.nan
    for sketch in KINDS:
        z = grad_sketch_linear(x, g, cu, sketch, name="w")
        assert z[0].isnan().any()
        assert z[1].isfinite().all()
