"""k-means against brute force and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from adaptinf_kernels import kmeans
from adaptinf_kernels.kmeans import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs


def blobs(n: int = 600, d: int = 7, k: int = 6, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    return make_blobs(n, d, centers=k, cluster_std=spread, random_state=seed)[0].astype(np.float32)


def brute_force(x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and all squared distances in float64."""
    squared = ((x[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2)
    return squared.argmin(1), squared


def check_state(x: np.ndarray, found) -> None:
    """Labels, inertia and sizes belong to the returned centroids; labels by regret, as the centroids are rounded."""
    labels, squared = brute_force(x, found.centroids)
    regret = squared[np.arange(len(x)), found.labels] - squared.min(1)
    rounding = float(64 * np.finfo(np.float32).eps * (np.abs(x).max() + 1) ** 2 * x.shape[1])
    assert (regret <= rounding).all()
    assert found.inertia == pytest.approx(squared.min(1).sum(), rel=1e-4, abs=len(x) * rounding)
    assert found.sizes.tolist() == np.bincount(found.labels, minlength=len(found.sizes)).tolist()
    assert found.labels.dtype == found.sizes.dtype == np.int64
    assert labels.shape == found.labels.shape


@pytest.mark.parametrize("spread", [1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_from_the_same_start(spread: float, seed: int) -> None:
    x = blobs(spread=spread, seed=seed)
    start = x[np.random.default_rng(seed).choice(len(x), 6, replace=False)]
    ours = kmeans(x, 6, init=start, tol=0, max_iter=300)
    theirs = KMeans(6, init=start.astype(np.float64), n_init=1, tol=0, max_iter=300, algorithm="lloyd").fit(
        x.astype(np.float64)
    )
    assert (ours.labels == theirs.labels_).all()
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, rtol=1e-5, atol=1e-5)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-9)
    assert ours.n_iter + 1 == theirs.n_iter_  # it assigns once more to see that nothing changed
    check_state(x, ours)


def test_tolerance_means_what_it_means_in_scikit_learn() -> None:
    x = blobs(2000, 4, 8, spread=6.0)
    start = x[:8]
    for tol in (1e-2, 1e-4):
        ours = kmeans(x, 8, init=start, tol=tol)
        theirs = KMeans(8, init=start.astype(np.float64), n_init=1, tol=tol, max_iter=100).fit(x.astype(np.float64))
        assert ours.n_iter == theirs.n_iter_ < kmeans(x, 8, init=start, tol=0).n_iter
        assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-9)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_as_good_as_scikit_learn(init: str) -> None:
    x = blobs(1000, 5, 10, spread=0.3)
    ours = min(kmeans(x, 10, init=init, seed=seed).inertia for seed in range(8))
    theirs = KMeans(10, init=init, n_init=8, random_state=0).fit(x).inertia_
    assert ours <= theirs * 1.001


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_inertia_never_rises(metric: str) -> None:
    x = blobs(300, 5, 4, spread=5.0)
    inertia = [kmeans(x, 7, init=x[:7], max_iter=i, tol=0, metric=metric).inertia for i in range(1, 12)]
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(inertia))
    assert inertia[-1] < inertia[0]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_same_bits_for_any_block_and_family(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(500, 9, 5, spread=3.0)
    first = kmeans(x, 9, seed=4, metric=metric)
    again = kmeans(torch.from_numpy(x), 9, seed=4, metric=metric)
    assert isinstance(first.labels, np.ndarray)
    assert isinstance(again.labels, torch.Tensor)
    assert first.labels.tobytes() == again.labels.numpy().tobytes()
    assert first.centroids.tobytes() == again.centroids.numpy().tobytes()
    assert (first.inertia, first.n_iter) == (again.inertia, again.n_iter)
    other = kmeans(x, 9, seed=5, metric=metric)
    assert (other.labels != first.labels).any()
    monkeypatch.setattr(reference, "_BLOCK_BYTES", 9 * 8 * 37)
    blocked = kmeans(x, 9, seed=4, metric=metric)
    assert blocked.labels.tobytes() == first.labels.tobytes()
    assert blocked.centroids.tobytes() == first.centroids.tobytes()


def test_where_the_data_lies_does_not_matter() -> None:
    """The expansion |x|^2 - 2 x.c + |c|^2 would lose all digits here."""
    x = blobs(400, 6, 5, spread=2.0).astype(np.float64)
    near, far = kmeans(x, 5, seed=1), kmeans(x + 1e7, 5, seed=1)
    assert (near.labels == far.labels).all()
    assert far.inertia == pytest.approx(near.inertia, rel=1e-6)


def test_as_many_clusters_as_rows() -> None:
    x = blobs(40, 3, 4)
    found = kmeans(x, 40)
    assert found.inertia == pytest.approx(0, abs=1e-9)
    assert sorted(found.labels.tolist()) == list(range(40))
    assert (found.sizes == 1).all()


def test_one_cluster_one_row_one_column() -> None:
    x = blobs(30, 4, 2)
    np.testing.assert_allclose(kmeans(x, 1).centroids[0], x.mean(0), rtol=1e-5)
    assert kmeans(x[:1], 1).inertia == 0
    assert kmeans(np.array([[0.0], [1.0], [10.0]]), 2).labels.tolist() in ([0, 0, 1], [1, 1, 0])


def test_fewer_distinct_rows_than_clusters(caplog: pytest.LogCaptureFixture) -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 3)), 40, axis=0)
    found = kmeans(x, 10)
    assert found.inertia == pytest.approx(0, abs=1e-20)
    assert (found.sizes > 0).sum() == 5
    assert "only 5 of 10 clusters" in caplog.text


def test_ties_go_to_the_lowest_id() -> None:
    found = kmeans(np.array([[0.0], [2.0], [1.0]]), 2, init=np.array([[0.0], [2.0]]), max_iter=1)
    assert found.labels.tolist()[:2] == [0, 1]
    same = kmeans(np.ones((3, 1)), 3, init=np.ones((3, 1)), max_iter=0, metric="cosine")
    assert same.labels.tolist() == [0, 0, 0]


def test_an_empty_cluster_gets_the_farthest_point() -> None:
    x = blobs(300, 4, 3)
    start = np.concatenate([x[:2], np.full((1, 4), 1e6, dtype=np.float32)])
    found = kmeans(x, 3, init=start, tol=0)
    assert (found.sizes > 0).all()
    check_state(x, found)


def test_cosine_ignores_lengths_and_bears_zero_rows() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(4, 16))
    x = np.concatenate([directions[i] + 0.05 * rng.normal(size=(50, 16)) for i in range(4)]).astype(np.float32)
    x *= np.exp(rng.normal(size=(200, 1)) * 3).astype(np.float32)
    found = kmeans(x, 4, metric="cosine")
    assert sorted(found.sizes.tolist()) == [50] * 4
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-6)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert found.inertia == pytest.approx((1 - (unit * found.centroids[found.labels]).sum(1)).sum(), rel=1e-4)
    with_zero = kmeans(np.concatenate([x, np.zeros((1, 16), np.float32)]), 4, metric="cosine", init=found.centroids)
    assert with_zero.inertia == pytest.approx(found.inertia + 1, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cosine_at_any_magnitude(scale: float) -> None:
    x = blobs(60, 5, 3)
    assert (kmeans(x * np.float32(scale), 3, metric="cosine").labels == kmeans(x, 3, metric="cosine").labels).all()


def test_other_dtypes_and_layouts() -> None:
    x = torch.from_numpy(blobs(100, 6, 3))
    expected = kmeans(x, 3)
    assert torch.equal(kmeans(x.T.contiguous().T, 3).labels, expected.labels)
    assert torch.equal(kmeans(x.repeat_interleave(2, 1)[:, ::2].requires_grad_(), 3).labels, expected.labels)
    assert kmeans(x.double(), 3).centroids.dtype == torch.float64
    assert kmeans(x.bfloat16(), 3).centroids.dtype == torch.float32


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(1, 4), st.data())
def test_small_and_degenerate(n: int, d: int, data: st.DataObject) -> None:
    """Integer points with many ties and copies: the state is consistent, and an iteration more changes nothing."""
    x = np.array(
        data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=n, max_size=n)),
        dtype=np.float64,
    )
    k = data.draw(st.integers(1, n))
    found = kmeans(x, k, seed=data.draw(st.integers(0, 9)), tol=0, max_iter=200)
    check_state(x, found)
    again = kmeans(x, k, init=found.centroids, tol=0, max_iter=200)
    assert again.inertia <= found.inertia + 1e-9
    assert (found.sizes > 0).sum() == min(k, len(np.unique(x, axis=0)))


def test_the_rounded_mean_of_copies_makes_no_new_cluster() -> None:
    """The mean of three copies of a row may differ from it in the last bit; found by the property test above."""
    x = np.array([[0, 0]] * 14 + [[0, 1]] * 2 + [[1, 0]] + [[2, 1]] * 3 + [[0, 0], [0, 1], [2, 2]], dtype=np.float64)
    for seed in range(10):
        found = kmeans(x, 13, seed=seed, tol=0, max_iter=200)
        assert (found.sizes > 0).sum() == 5
        assert found.n_iter < 200


GOOD = np.zeros((5, 2), np.float32)


@pytest.mark.parametrize(
    ("x", "k", "options", "error", "message"),
    [
        (GOOD, 6, {}, ValueError, "k=6 clusters of N=5 rows"),
        (GOOD, 0, {}, ValueError, "k=0"),
        (GOOD[:0], 1, {}, ValueError, "N=0"),
        (np.array([[0.0], [np.nan], [np.inf]]), 1, {}, ValueError, "2 of 3 rows, the first is row 1"),
        (GOOD[0], 1, {}, ValueError, r"\[2\]"),
        (GOOD.astype(int), 1, {}, TypeError, "int64"),
        ([[1.0]], 1, {}, TypeError, "list"),
        (GOOD, 2, {"init": "best"}, ValueError, "init='best'"),
        (GOOD, 2, {"init": GOOD}, ValueError, r"\[2, 2\], not \[5, 2\]"),
        (GOOD, 2, {"init": np.full((2, 2), np.nan)}, ValueError, "init has NaN"),
        (GOOD, 2, {"metric": "manhattan"}, ValueError, "metric='manhattan'"),
        (GOOD, 2, {"max_iter": -1}, ValueError, "max_iter=-1"),
        (GOOD, 2, {"tol": float("nan")}, ValueError, "tol=nan"),
        (GOOD, 2, {"seed": -1}, ValueError, "seed=-1"),
        (GOOD, 2, {"impl": "triton"}, RuntimeError, "only native, reference"),
    ],
)
def test_bad_arguments(x, k: int, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kmeans(x, k, **options)
