"""The native primitives of k-means equal the reference bit for bit: instruction sets, screens, threads, hard inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from adaptinf_kernels import _native, build_info, kmeans
from adaptinf_kernels.kmeans import native, reference
from adaptinf_kernels.kmeans.arithmetic import Frame, make_frame, unit
from adaptinf_kernels.kmeans.memory import nothing
from adaptinf_kernels.kmeans.ops import Fit, Known
from adaptinf_kernels.kmeans.ranks import Alone
from adaptinf_kernels.kmeans.scan import find_place, find_range
from torch import Tensor

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)

SCREENED = ("kmeans_fit", "kmeans_assign", "kmeans_accumulate", "kmeans_plus_plus")


def _ways() -> list[dict[str, str]]:
    ways = [{"cpu_level": level, "screen": "float32"} for level in build_info()["cpu"]["levels"]]
    try:
        call = {"x": torch.zeros(1, 1), "cu": torch.tensor([0, 1]), "o": torch.zeros(1, 1, dtype=torch.float64)}
        x, cu, origin = (_native.view(value) for value in call.values())
        ids, found = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.float64)
        outs = _native.view(ids), _native.view(found)
        _native.native().kmeans_assign(x, cu, cu, x, origin, 1, False, False, *outs, 1, "", "bfloat16")
    except ValueError:
        return ways
    return [*ways, {"cpu_level": ways[-1]["cpu_level"], "screen": "bfloat16"}]


WAYS = _ways()


class Chosen:
    """The native module with an instruction set and a screen chosen."""

    def __init__(self, way: dict[str, str]) -> None:
        self.way = way

    def __getattr__(self, name: str) -> Callable[..., Any]:
        way = self.way if name in SCREENED else {"cpu_level": self.way["cpu_level"]}
        return lambda *arguments: getattr(_native.native(), name)(*arguments, **way)


class Boundary:
    """What ``native.py`` sees in place of ``_native``."""

    view, rows_contiguous = staticmethod(_native.view), staticmethod(_native.rows_contiguous)
    contiguous = staticmethod(_native.contiguous)

    def __init__(self, way: dict[str, str], threads: int) -> None:
        self.native, self.threads = lambda: Chosen(way), lambda: threads


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Iterator[str]]:
    """Chooses one way after the other, with one thread and with two."""

    def choose() -> Iterator[str]:
        for way in WAYS:
            for threads in (1, 2):
                monkeypatch.setattr(native, "_native", Boundary(way, threads))
                yield f"{way} {threads} threads"

    return choose


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frame_of(x: Tensor, cu_rows: Tensor, weights: Tensor | None, spherical: bool) -> Frame:
    counts = cu_rows.diff()
    found = find_range([(reference.extremes(x, cu_rows), counts)], Alone())
    place = find_place(lambda: [(x, cu_rows)], found, Alone(), spherical=spherical, impl="reference")
    heaviest = torch.ones(len(counts), dtype=torch.float64)
    if weights is not None:
        heaviest = torch.segment_reduce(weights, "max", lengths=counts)
    return make_frame(*place, heaviest, spherical=spherical)


def near_ties(gap: float, d: int = 40) -> tuple[Tensor, Tensor]:
    """Rows that are about ``gap`` off the middle between two of six centroids, float64."""
    c = noise(6, d, seed=1).double()
    i = torch.arange(400) % 6
    return (c[i] + c[(i + 1) % 6]) / 2 + gap * noise(400, d, seed=2).double(), c


def centroids_of(x: Tensor, k: int) -> Tensor:
    return x[:k].to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def outlier(factor: float) -> Tensor:
    x = noise(300, 20)
    x[200] *= factor
    return x


LATTICE = torch.randint(0, 3, (600, 6), generator=torch.Generator().manual_seed(0)).float()
DUPLICATES = noise(5, 20)[torch.randint(0, 5, (300,), generator=torch.Generator().manual_seed(0))]
FITS: dict[str, tuple[Tensor, int | Tensor, dict[str, Any]]] = {
    "500 x 7": (noise(500, 7), 5, {}),
    "one row": (noise(1, 1), 1, {}),
    "K = N": (noise(63, 64), 63, {}),
    "K = 1": (noise(50, 3), 1, {}),
    "one column": (noise(300, 1), 9, {}),
    "unit, 500 x 33": (noise(500, 33), 17, {"spherical": True}),
    "unit, 777 x 130": (noise(777, 130), 40, {"spherical": True}),
    "777 x 130": (noise(777, 130), 40, {}),
    "many tiles": (noise(2000, 64), 16, {"max_iter": 5}),
    "float16": ((noise(400, 20) + 100).half(), 7, {}),
    "float16, full range": ((noise(400, 20) * 3e4).clamp(-65504, 65504).half(), 7, {}),
    "bfloat16": (noise(400, 20).bfloat16(), 7, {}),
    "float64": (noise(400, 20).double(), 7, {}),
    "far from the origin": (noise(400, 20) + 1e4, 7, {}),
    "squares vanish": (noise(400, 20).double() * 1e-300, 7, {}),
    "subnormal": (noise(400, 20) * 1e-44, 7, {}),
    "huge": (noise(400, 20) * 1e30, 7, {}),
    "one huge row": (outlier(1e30), 7, {}),
    "one far row": (outlier(1e9), 7, {}),
    "a lattice": (LATTICE, 20, {}),
    "a lattice, unit": (LATTICE, 20, {"spherical": True}),
    "five rows, farthest": (DUPLICATES, 12, {}),
    "five rows, split": (DUPLICATES, 12, {"empty": "split"}),
    "all rows equal": (noise(1, 20).expand(50, 20), 3, {}),
    "zeros": (torch.zeros(40, 3), 3, {}),
    "zeros, unit": (torch.zeros(40, 3), 3, {"spherical": True}),
    "strided": (noise(400, 40)[:, ::2], 5, {}),
    "empty, farthest": (noise(300, 4), torch.cat([noise(30, 4), noise(10, 4, seed=3) + 100]), {}),
    "empty, split": (noise(300, 4), torch.cat([noise(30, 4), noise(10, 4, seed=3) + 100]), {"empty": "split"}),
    "empty, kept": (noise(300, 4), torch.cat([noise(30, 4), noise(10, 4, seed=3) * 1e30]), {"empty": "keep"}),
    "start far away": (noise(300, 4), noise(8, 4, seed=3) * 1e20, {}),
    "weights": (noise(400, 20), 7, {"weights": noise(400, seed=4).abs().double()}),
    "by inertia": (noise(600, 9), 5, {"by_inertia": True, "threshold": 1e-3}),
    "by shift": (noise(600, 9), 5, {"threshold": 1e-2}),
    "no iteration": (noise(60, 9), 5, {"max_iter": 0}),
    "ties, float64": (*near_ties(1e-15), {"max_iter": 2}),
    **{
        f"ties at {gap:g}, {dtype}": (near_ties(gap)[0].to(dtype), near_ties(gap)[1].to(dtype), {"max_iter": 3})
        for gap in (1e-2, 1e-4, 1e-6, 1e-9)
        for dtype in (torch.float32, torch.float64)
    },
}


@pytest.mark.parametrize("case", FITS)
def test_fit_equals_the_reference(case: str, everywhere: Callable[[], Iterator[str]]) -> None:
    x, start, options = FITS[case]
    check_fit(x, [x.shape[0]], [start if isinstance(start, Tensor) else centroids_of(x, start)], everywhere, **options)


@pytest.mark.parametrize("spherical", [False, True])
def test_ragged_problems_equal_the_reference(spherical: bool, everywhere: Callable[[], Iterator[str]]) -> None:
    x, rows, clusters = noise(1000, 12), [1, 39, 1, 259, 700], [1, 5, 1, 13, 40]
    starts = [centroids_of(part, k) for part, k in zip(x.split(rows), clusters, strict=True)]
    check_fit(x, rows, starts, everywhere, spherical=spherical, weights=noise(1000, seed=5).abs().double())


def check_fit(
    x: Tensor,
    rows: list[int],
    starts: list[Tensor],
    everywhere: Callable[[], Iterator[str]],
    *,
    weights: Tensor | None = None,
    spherical: bool = False,
    max_iter: int = 30,
    empty: str = "farthest",
    by_inertia: bool = False,
    threshold: float = 0.0,
) -> None:
    """fit, and accumulate and assign with the centroids that it gives."""
    cu_rows = torch.tensor([0, *rows]).cumsum(0)
    cu_clusters = torch.tensor([0, *map(len, starts)]).cumsum(0)
    start = torch.cat(starts)
    start = unit(start.double()).to(start.dtype) if spherical else start
    frame = frame_of(x, cu_rows, weights, spherical)
    thresholds = torch.full((len(rows),), threshold, dtype=torch.float64)
    fit = (x, cu_rows, cu_clusters, start, weights, frame, thresholds, by_inertia, max_iter, empty, spherical, False)
    expected = reference.run("fit", *fit)
    last = len(rows) - 1
    part = x[cu_rows[last] :], expected.centroids[cu_clusters[last] :]
    accumulate = (*part, None if weights is None else weights[cu_rows[last] :], frame.of(last), spherical, False)
    several = int(min(3, cu_clusters.diff().min()))
    assign = [(x, cu_rows, cu_clusters, expected.centroids, frame.origin, m, spherical, False) for m in (1, several)]
    counts = torch.tensor([1 + (len(one) - 1) * 3 for one in starts])
    draws = torch.randint(2**63 - 1, (int(counts.sum()),), generator=torch.Generator().manual_seed(0))
    cu_draws = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    plus_plus = (x, cu_rows, cu_clusters, weights, frame, draws, cu_draws, spherical)
    calls = [("accumulate", accumulate), *(("assign", arguments) for arguments in assign), ("plus_plus", plus_plus)]
    wanted = [reference.run(name, *arguments) for name, arguments in calls]
    again = (*fit[:3], expected.centroids, *fit[4:])
    expected_again = reference.run("fit", *again)
    for way in everywhere():
        compare(native.run("fit", *fit), expected, f"fit, {way}")
        found, known, _ = native.run("fit_known", *fit, nothing(len(x)))
        compare(found, expected, f"fit that is remembered, {way}")
        check_known(known, x, cu_rows, cu_clusters, expected, spherical)
        found, known, _ = native.run("fit_known", *again, known)
        compare(found, expected_again, f"fit with bounds, {way}")
        check_known(known, x, cu_rows, cu_clusters, expected_again, spherical)
        for (name, arguments), result in zip(calls, wanted, strict=True):
            compare(*map(parts, (native.run(name, *arguments), result)), f"{name}, {way}")


def check_known(known: Known, x: Tensor, cu_rows: Tensor, cu_clusters: Tensor, fit: Fit, spherical: bool) -> None:
    """The bounds hold for distances in extended precision, whose range float64 never leaves."""
    y = (unit(x.double()) if spherical else x.double()).numpy().astype(np.longdouble)
    c, labels = fit.centroids.double().numpy().astype(np.longdouble), known.labels.numpy()
    assert torch.equal(known.labels, fit.labels)
    for (row, end), (cluster, stop) in zip(pairwise(cu_rows.tolist()), pairwise(cu_clusters.tolist()), strict=True):
        away = np.stack([np.sqrt(((y[row:end] - one) ** 2).sum(1)) for one in c[cluster:stop]], 1)
        own = np.arange(stop - cluster) == labels[row:end, None]
        assert (np.where(own, away, 0).max(1) <= known.upper[row:end].numpy()).all()
        assert (np.where(own, np.inf, away).min(1) >= known.lower[row:end].numpy()).all()


def parts(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def compare(found: Any, expected: Any, what: str) -> None:
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype == other.dtype and one.shape == other.shape, (what, number)
        assert torch.equal(one, other), (what, number, int((one != other).sum()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_passes_equal_the_reference(dtype: torch.dtype, everywhere: Callable[[], Iterator[str]]) -> None:
    x, cu_rows = noise(700, 13).to(dtype), torch.tensor([0, 3, 3, 700])
    scale = torch.tensor([2.0**40, 2.0**50, 2.0**30], dtype=torch.float64)
    origin = noise(3, 13, seed=1).double()
    limit = noise(700, seed=2).abs().double() * 20
    calls = [
        ("extremes", (x, cu_rows)),
        ("column_sums", (x, cu_rows, scale)),
        ("hashes", (x,)),
        ("hashes", (x.repeat(1, 17),)),
        *(("square_sums", (x, cu_rows, origin * (not unit), scale, unit)) for unit in (False, True)),
        *(
            ("distances", (x, origin[0] * (not unit), noise(9, 13).double(), by, unit))
            for by in (None, limit)
            for unit in (False, True)
        ),
    ]
    for name, arguments in calls:
        expected = reference.run(name, *arguments)
        for way in everywhere():
            compare(*map(parts, (native.run(name, *arguments), expected)), f"{name}, {way}")


def test_plus_plus_among_rows_without_weight(everywhere: Callable[[], Iterator[str]]) -> None:
    """A sample of a problem may hold none of the rows that have weight: then all are alike, and nothing is far."""
    x, bounds, weights = noise(300, 5), torch.tensor([0, 300]), torch.zeros(300, dtype=torch.float64)
    draws = torch.randint(2**63 - 1, (19,), generator=torch.Generator().manual_seed(0))
    call = (x, bounds, torch.tensor([0, 7]), weights, frame_of(x, bounds, None, False), draws, torch.tensor([0, 19]))
    expected = reference.run("plus_plus", *call, False)
    assert expected[0] > 6 and expected[1:].tolist() == [0, 1, 2, 3, 4, 5]
    for _ in everywhere():
        assert torch.equal(native.run("plus_plus", *call, False), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_first_bad_row(bad: float, everywhere: Callable[[], Iterator[str]]) -> None:
    x = noise(900, 11)
    x[[700, 613], [10, 3]] = bad
    for _ in everywhere():
        assert native.run("extremes", x, torch.tensor([0, 600, 610, 900])).bad.tolist() == [-1, -1, 613]


def test_fast_labels_are_nearly_right_and_the_same_in_chunks() -> None:
    x = noise(3000, 64)
    exact = kmeans(x, 20, init=x[:20], max_iter=4, impl="native")
    fast = kmeans(x, 20, init=x[:20], max_iter=4, precision="fast", impl="native")
    assert fast.inertia == pytest.approx(exact.inertia, rel=1e-4)
    frame = frame_of(x, torch.tensor([0, 3000]), None, False)
    again = native.run("accumulate", x, fast.centroids, None, frame, False, True)
    assert torch.equal(again.labels, fast.labels)
    pieces = [native.run("accumulate", part, fast.centroids, None, frame, False, True) for part in x.split(700)]
    assert torch.equal(torch.cat([piece.labels for piece in pieces]), fast.labels)
    assert torch.equal(sum(piece.sums for piece in pieces), again.sums)


def test_fast_follows_lloyd_where_every_label_is_nearly_a_tie() -> None:
    """Noise without clusters: one label taken by rounding alone sends the iteration elsewhere, by about 1e-3."""
    x = torch.randn(16, 2000, 64, generator=torch.Generator().manual_seed(0))
    exact, fast = (
        kmeans(x, 16, init=x[:, :16], max_iter=20, stop="labels", precision=precision, impl="native")
        for precision in ("exact", "fast")
    )
    assert float((fast.inertia / exact.inertia - 1).abs().max()) < 1e-4


def test_rows_beyond_two_to_the_31() -> None:
    """Rows 2^30 elements apart; the memory between them is never touched."""
    x = torch.empty(3 * 2**30, dtype=torch.float16).as_strided((3, 16), (2**30, 1))
    x[:] = noise(3, 16)
    found = kmeans(x, 2, init=x[:2].float(), impl="native")
    assert found.labels.tolist() == kmeans(x.clone(), 2, init=x[:2].float(), impl="reference").labels.tolist()


def test_what_it_refuses() -> None:
    x = noise(10, 3)
    assert "meta" in native.not_supported_reasons("extremes", x.to("meta"), None)[0]
    assert "int64" in native.not_supported_reasons("extremes", x.long(), None)[0]


def test_copies_of_strided_inputs_outlive_the_call() -> None:
    """So large that their memory goes back to the system when they are freed."""
    x, centroids = noise(64, 1024), noise(1024, 1024).T
    whole = torch.tensor([0, 64]), torch.tensor([0, 1024])
    origin = torch.zeros(1, 1024, dtype=torch.float64)
    ids, found = native.run("assign", x, *whole, centroids, origin, 1, False, False)
    expected = reference.run("assign", x, *whole, centroids, origin, 1, False, False)
    assert torch.equal(ids, expected[0])
    assert torch.equal(found, expected[1])
