"""Bits of a fit against the definition in plain Python numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from adaptinf_kernels import kmeans
from adaptinf_kernels.kmeans import arithmetic
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.kmeans import oracle

REALS = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e200, max_value=1e200)


@given(st.lists(REALS, max_size=40))
def test_lane8_is_the_order_that_the_readme_says(terms: list[float]) -> None:
    ours = arithmetic.lane8(torch.tensor([terms], dtype=torch.float64))
    assert ours.numpy().tobytes() == np.array([oracle.lane8(terms)]).tobytes()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_unit_rows_at_any_magnitude(row: list[float]) -> None:
    ours = arithmetic.unit(torch.tensor([row], dtype=torch.float64))[0]
    np.testing.assert_array_equal(ours.numpy(), oracle.unit(row))
    assert float(ours.norm()) == pytest.approx(0.0 if not any(row) else 1.0, abs=1e-14)


@given(st.integers(1, 2**40), st.floats(0, 1e300))
def test_sums_of_scaled_numbers_fit(n: int, largest: float) -> None:
    power = float(arithmetic.scale(torch.tensor([n]), torch.tensor([largest], dtype=torch.float64)))
    assert power == oracle.scale(n, largest)
    assert n * round(largest * power) <= 2**62
    assert largest < 1e-280 or n * largest * power >= 2**59  # and nothing of 64 bits is given away


CASES = {
    "plain": {},
    "one column": {"d": 1},
    "nine columns": {"d": 9, "k": 7},
    "weights": {"weighted": True},
    "cosine": {"spherical": True, "d": 11},
    "cosine, weights": {"spherical": True, "weighted": True},
    "float64": {"dtype": np.float64},
    "float16": {"dtype": np.float16, "scale": 1.5e4},
    "float16 cosine": {"dtype": np.float16, "scale": 1.5e4, "spherical": True},
    "far": {"offset": 1e4},
    "huge": {"scale": 1e37},
    "tiny": {"scale": 1e-42},
    "huge float64": {"scale": 1e80, "dtype": np.float64},
    "tiny float64": {"scale": 1e-300, "dtype": np.float64},
    "tiny float64, cosine": {"scale": 1e-310, "dtype": np.float64, "spherical": True},
    "huge float64, cosine": {"scale": 1e300, "dtype": np.float64, "spherical": True},
    "integers": {"scale": 1.0, "whole": True},
    "integers, cosine": {"scale": 1.0, "whole": True, "spherical": True, "d": 2},
    "far start": {"start": 1e5},
    "far start, split": {"start": 1e5, "empty": "split"},
    "far start, keep": {"start": 1e5, "empty": "keep"},
    "far start, weights": {"start": 1e5, "empty": "split", "weighted": True},
    "all far": {"start": 1e6, "all_far": True, "empty": "keep"},
    "tolerance": {"tol": 1e-2},
    "by inertia": {"tol": 3e-2, "by_inertia": True},
    "one iteration": {"max_iter": 1},
    "no iteration": {"max_iter": 0},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_every_bit_of_a_fit(case: str, seed: int, impl: str) -> None:
    given_ = {"d": 5, "k": 6, "scale": 2.0, "offset": 0.0, "dtype": np.float32, **CASES[case]}
    rng = np.random.default_rng(seed)
    n, d, k = 47, given_["d"], given_["k"]
    x = rng.normal(size=(n, d)) * given_["scale"] + given_["offset"]
    if given_.get("whole"):
        x = np.round(x)
    x = x.astype(given_["dtype"])
    start = x[:k].astype(np.float64)
    if "start" in given_:
        start[0 if given_.get("all_far") else 2 :] += given_["start"]
    weights = np.where(rng.random(n) < 0.2, 0, rng.exponential(size=n)) if given_.get("weighted") else None
    common = {name: given_[name] for name in ("max_iter", "empty") if name in given_}
    tol, by_inertia, spherical = given_.get("tol", 0.0), given_.get("by_inertia", False), given_.get("spherical", False)
    expected = oracle.kmeans(x, start, weights, tol=tol, by_inertia=by_inertia, spherical=spherical, **common)
    found = kmeans(
        x,
        k,
        init=start,
        sample_weight=weights,
        tol=tol,
        stop="inertia" if by_inertia else "shift",
        metric="cosine" if spherical else "euclidean",
        impl=impl,
        **common,
    )
    assert found.labels.tolist() == expected.labels
    assert found.centroids.tobytes() == expected.centroids.tobytes()
    assert found.sizes.tolist() == expected.sizes
    assert (found.inertia, found.n_iter) == (expected.inertia, expected.n_iter)
    assert math.isfinite(found.inertia)


@settings(max_examples=60)
@given(st.integers(1, 16), st.integers(1, 3), st.booleans(), st.data())
def test_every_bit_among_ties_and_copies(n: int, d: int, spherical: bool, data: st.DataObject) -> None:
    entries = st.lists(st.integers(-2, 2), min_size=d, max_size=d)
    x = np.array(data.draw(st.lists(entries, min_size=n, max_size=n)), dtype=np.float32)
    k = data.draw(st.integers(1, n))
    start = np.array(data.draw(st.lists(entries, min_size=k, max_size=k)), dtype=np.float32)
    empty = data.draw(st.sampled_from(["farthest", "split", "keep"]))
    expected = oracle.kmeans(x, start, spherical=spherical, empty=empty, max_iter=8)
    found = kmeans(x, k, init=start, tol=0, metric="cosine" if spherical else "euclidean", empty=empty, max_iter=8)
    assert found.labels.tolist() == expected.labels
    assert found.centroids.tobytes() == expected.centroids.tobytes()
    assert (found.inertia, found.n_iter) == (expected.inertia, expected.n_iter)
