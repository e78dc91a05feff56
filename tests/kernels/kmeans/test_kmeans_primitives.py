"""Each primitive of each implementation has the bits of the reference, on awkward shapes and numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from adaptinf_kernels.kmeans import ops
from adaptinf_kernels.kmeans.arithmetic import make_frame, unit
from adaptinf_kernels.kmeans.layout import state_dtype
from adaptinf_kernels.kmeans.scan import Place
from torch import Tensor


class Problem(NamedTuple):
    """Rows, the problems' bounds, centroids, weights and frame, all finite."""

    x: Tensor
    cu_rows: Tensor
    cu_clusters: Tensor
    centroids: Tensor
    weights: Tensor | None
    place: Place
    frame: Any


SHAPES = {  # rows and clusters of each problem, columns
    "one number": ([(1, 1)], 1),
    "one column": ([(63, 5)], 1),
    "as many clusters": ([(64, 64)], 3),
    "seventeen columns": ([(500, 17)], 17),
    "many clusters": ([(300, 200)], 40),
    "wide": ([(65, 9)], 777),
    "ragged": ([(1, 1), (130, 3), (16, 16), (77, 33), (2, 1)], 31),
    "many small": ([(20, 4)] * 9, 8),
}
KINDS = ["plain", "whole numbers", "far", "copies", "tiny", "huge", "one huge row", "near ties"]


def problem(shape: str, kind: str, dtype: torch.dtype, spherical: bool, weighted: bool, strided: bool) -> Problem:
    sizes, columns = SHAPES[shape]
    generator = torch.Generator().manual_seed(len(shape) + 10 * KINDS.index(kind))
    rows, counts = (torch.tensor(part) for part in zip(*sizes, strict=True))
    cu_rows, cu_clusters = (torch.cat([torch.zeros(1, dtype=torch.int64), part.cumsum(0)]) for part in (rows, counts))
    x = torch.randn(int(rows.sum()), columns, generator=generator, dtype=torch.float64) * 2
    if kind == "whole numbers":
        x = x.round()
    elif kind == "far":
        x += 1e4
    elif kind == "copies":
        x = x[torch.randint(0, 1 + len(x) // 10, (len(x),), generator=generator)]
    elif kind in ("tiny", "huge"):
        x *= {"tiny": 1e-6, "huge": 5e3}[kind] if dtype == torch.float16 else {"tiny": 1e-39, "huge": 1e37}[kind]
    elif kind == "one huge row":
        x[len(x) // 2] *= 5000
    x = x.to(dtype)
    if strided:
        wide = torch.zeros(len(x), 2 * columns + 1, dtype=dtype)
        wide[:, 1::2] = x
        x = wide[:, 1::2]
    first = torch.cat([x[a : a + k] for a, k in zip(cu_rows[:-1].tolist(), counts.tolist(), strict=True)]).double()
    if kind == "near ties":
        first += torch.randn(first.shape, generator=generator, dtype=torch.float64) * 1e-7 + first.flip(0) * 0.25
        first[len(first) // 2 :] = first[: len(first) - len(first) // 2] * (1 + 1e-7)
    centroids = (unit(first) if spherical else first).to(state_dtype(dtype))
    weights = None
    if weighted:
        weights = torch.rand(len(x), generator=generator, dtype=torch.float64)
        weights[1::5] = 0
        weights[cu_rows[:-1]] = 1
    extent = ops.extremes("reference", x, cu_rows)
    largest = torch.maximum(extent.low.abs(), extent.high.abs()).amax(1)
    origin, reach = torch.zeros_like(extent.low), torch.ones_like(largest)
    if not spherical:
        means = [x[a:b].double().mean(0) for a, b in zip(cu_rows[:-1].tolist(), cu_rows[1:].tolist(), strict=True)]
        origin = torch.stack(means)
        reach = torch.maximum(extent.high - origin, origin - extent.low).amax(1)
    far = (centroids.double() - origin.repeat_interleave(counts, 0)).abs().amax(1)
    away = torch.segment_reduce(far, "min", lengths=counts)
    heaviest = torch.ones_like(reach) if weights is None else torch.segment_reduce(weights, "max", lengths=rows)
    frame = make_frame(origin, reach, rows, heaviest, spherical=spherical, away=away)
    return Problem(x, cu_rows, cu_clusters, centroids, weights, Place(origin, reach, rows), frame)


def draws_of(cu_clusters: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Draws of k-means++ for two candidates, or three where there are more than ten clusters, and their bounds."""
    counts = [1 + (k - 1) * (2 + (k > 10)) for k in cu_clusters.diff().tolist()]
    draws = torch.randint(2**63 - 1, (sum(counts),), generator=torch.Generator().manual_seed(seed))
    return draws, torch.tensor([0, *counts]).cumsum(0)


def assert_same_bits(impl: str, primitive: str, *inputs: Any) -> None:
    reasons = ops.OP.not_supported_reasons(impl, primitive, *inputs)
    if reasons:
        pytest.skip("; ".join(reasons))
    ours, expected = (ops.OP(one, primitive, *inputs) for one in (impl, "reference"))
    ours, expected = ([part] if isinstance(part, Tensor) else list(part) for part in (ours, expected))
    for place, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), (primitive, place)
        if primitive == "extremes":
            assert torch.equal(a, b), place  # which of -0 and 0 is less is nobody's business
        else:
            assert a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes(), (primitive, place)


@pytest.fixture(params=["euclidean", "cosine"])
def spherical(request: pytest.FixtureRequest) -> bool:
    return request.param == "cosine"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits(shape: str, kind: str, spherical: bool, optimised: str) -> None:
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    for turn, dtype in enumerate(dtypes):
        given = problem(shape, kind, dtype, spherical, weighted=turn % 2 == 1, strided=turn == 0)
        x, cu_rows, cu_clusters, centroids, weights, place, frame = given
        assert_same_bits(optimised, "extremes", x, cu_rows)
        assert_same_bits(optimised, "column_sums", x, cu_rows, frame.sum_scale * 2.0**-20)
        assert_same_bits(optimised, "square_sums", x, cu_rows, place.origin, frame.inertia_scale, spherical)
        least = int(cu_clusters.diff().min())
        for m in {1, min(3, least), least}:
            assert_same_bits(optimised, "assign", x, cu_rows, cu_clusters, centroids, place.origin, m, spherical, False)
        last = slice(int(cu_rows[-2]), int(cu_rows[-1]))
        one, clusters = x[last], centroids[int(cu_clusters[-2]) :]
        some = None if weights is None else weights[last]
        assert_same_bits(optimised, "accumulate", one, clusters, some, frame.of(len(cu_rows) - 2), spherical, False)
        assert_same_bits(optimised, "accumulate", one[:0], clusters, None, frame.of(len(cu_rows) - 2), spherical, False)
        targets = clusters.double()[:11]
        limit = ops.distances("reference", one, place.origin[-1], targets[:1], None, spherical)[:, 0]
        draws = draws_of(cu_clusters, seed=turn)
        assert_same_bits(optimised, "plus_plus", x, cu_rows, cu_clusters, weights, frame, *draws, spherical)
        assert_same_bits(optimised, "distances", one, place.origin[-1], targets, None, spherical)
        assert_same_bits(optimised, "distances", one, place.origin[-1], targets, limit, spherical)


@pytest.mark.parametrize("empty", ["farthest", "split", "keep"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_of_fits(shape: str, kind: str, empty: str, spherical: bool, optimised: str) -> None:
    for turn, dtype in enumerate([torch.float32, torch.float64, torch.bfloat16, torch.float16]):
        given = problem(shape, kind, dtype, spherical, weighted=turn % 2 == 0, strided=turn == 2)
        x, cu_rows, cu_clusters, centroids, weights, _, frame = given
        nothing = torch.zeros(len(cu_rows) - 1, dtype=torch.float64)
        stops = [(nothing, False, 12), (nothing + 1e-2, True, 12), (nothing, False, 0), (nothing, False, 12)]
        threshold, by_inertia, max_iter = stops[(turn + len(shape)) % 4]
        state = (x, cu_rows, cu_clusters, centroids, weights, frame)
        assert_same_bits(optimised, "fit", *state, threshold, by_inertia, max_iter, empty, spherical, False)


def test_extremes_name_the_first_bad_row(impl: str) -> None:
    x, cu_rows = torch.randn(50, 9), torch.tensor([0, 10, 10, 30, 50])
    x[12, 8], x[29, 0], x[40, 3] = float("nan"), float("inf"), -float("inf")
    found = ops.extremes(impl, x, cu_rows)
    assert found.bad.tolist() == [-1, -1, 12, 40]
    assert (found.low[1] == float("inf")).all()
    assert (found.high[1] == -float("inf")).all()
    assert torch.equal(found.low[0], x[:10].amin(0).double())
    assert torch.equal(found.high[0], x[:10].amax(0).double())
