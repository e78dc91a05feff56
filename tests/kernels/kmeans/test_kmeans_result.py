"""What a clustering does with further rows, and how a fit ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from adaptinf_kernels import kmeans

from tests.kernels.kmeans.test_kmeans_properties import rows

X = rows(400, 7)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_predict_on_the_rows_of_the_fit(metric: str, impl: str) -> None:
    for x in (X, torch.from_numpy(X).half(), X.astype(np.float64)):
        found = kmeans(x, 6, metric=metric, impl=impl)
        again = found.predict(x, impl=impl)
        assert type(again) is type(found.labels)
        assert (again == found.labels).all()


def test_transform_is_the_distance(impl: str) -> None:
    euclidean, cosine = (kmeans(X, 6, metric=metric, impl=impl) for metric in ("euclidean", "cosine"))
    more = rows(50, 7, seed=9)
    wide, centroids = more.astype(np.float64), euclidean.centroids.astype(np.float64)
    np.testing.assert_allclose(
        euclidean.transform(more, impl=impl), np.linalg.norm(wide[:, None] - centroids, axis=2), rtol=1e-12
    )
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    expected = 1 - unit @ cosine.centroids.astype(np.float64).T
    np.testing.assert_allclose(cosine.transform(more, impl=impl), expected, atol=1e-14)
    assert (euclidean.transform(more, impl=impl).argmin(1) == euclidean.predict(more, impl=impl)).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_sizes_radii_and_inertia_are_those_of_the_labels(metric: str, impl: str) -> None:
    weights = np.random.default_rng(0).random(400)
    found = kmeans(X, 6, metric=metric, sample_weight=weights, max_iter=2, impl=impl)
    away = found.transform(X, impl=impl)[np.arange(400), found.labels]
    assert found.sizes.tolist() == np.bincount(found.labels, minlength=6).tolist()
    np.testing.assert_array_equal(found.radii, [away[found.labels == j].max() for j in range(6)])
    cost = away**2 if metric == "euclidean" else away
    assert found.inertia == pytest.approx((weights * cost).sum(), rel=1e-9)
    np.testing.assert_allclose(found.weights, np.bincount(found.labels, weights), rtol=1e-9)


def test_inertia_of_exact_labels_is_that_of_float64_lloyd(impl: str) -> None:
    x = rows(1000, 24, seed=3)
    found = kmeans(x, 15, init=x[:15], tol=0, max_iter=12, impl=impl)
    wide, centroids = x.astype(np.float64), x[:15].astype(np.float64)
    for _ in range(12):
        labels = ((wide[:, None] - centroids) ** 2).sum(2).argmin(1)
        centroids = np.stack([wide[labels == j].mean(0) for j in range(15)])
    squared = ((wide[:, None] - centroids) ** 2).sum(2).min(1).sum()
    assert found.inertia == pytest.approx(squared, rel=1e-6)


def test_partial_fit_takes_the_mean_of_all_rows_seen(impl: str) -> None:
    """Groups far apart: no row changes its cluster, so steps end where the mean of everything is."""
    rng = np.random.default_rng(0)
    x = (np.array([[0, 0], [50, 0], [0, 50]])[rng.integers(0, 3, 900)] + rng.normal(size=(900, 2))).astype(np.float32)
    weights = rng.random(900)
    found = kmeans(x[:300], 3, sample_weight=weights[:300], tol=0, impl=impl)
    for part in (slice(300, 302), slice(302, 900)):
        found = found.partial_fit(x[part], sample_weight=weights[part], impl=impl)
    labels = found.predict(x, impl=impl)
    means = [np.average(x[labels == j], axis=0, weights=weights[labels == j]) for j in range(3)]
    np.testing.assert_allclose(found.centroids, means, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.weights, np.bincount(labels, weights), rtol=1e-9)
    assert found.labels.tolist() == labels[302:].tolist()
    assert found.changed == 0


def test_partial_fit_forgets_and_counts_changes(impl: str) -> None:
    x = np.array([[0.0], [1.0], [10.0], [11.0]])
    found = kmeans(x, 2, init=np.array([[0.0], [10.0]]), impl=impl)
    drift = np.array([[4.0], [4.0], [4.0], [6.0]])
    kept, forgot = found.partial_fit(drift, impl=impl), found.partial_fit(drift, decay=0.0, impl=impl)
    assert kept.centroids[:, 0].tolist() == [(0 + 1 + 12) / 5, (10 + 11 + 6) / 3]
    assert kept.weights.tolist() == [5, 3]
    assert forgot.centroids[:, 0].tolist() == [4, 6]
    assert forgot.weights.tolist() == [3, 1]
    assert found.partial_fit(drift[:3], decay=0.5, impl=impl).weights.tolist() == [4, 1]
    assert found.partial_fit(drift[:3], decay=0.5, impl=impl).centroids[1, 0] == 10.5  # no row, no change
    assert found.partial_fit(np.array([[5.6]]), impl=impl).changed == 0
    moved = found.partial_fit(np.array([[5.4], [5.6], [5.6], [5.6]] * 50), decay=0.0, impl=impl)
    assert moved.changed == 0
    pulled = found.partial_fit(np.array([[-40.0], [4.0]]), decay=0.0, impl=impl)
    assert pulled.labels.tolist() == [0, 1]
    assert pulled.changed == 1


def test_partial_fit_on_directions(impl: str) -> None:
    found = kmeans(X, 4, metric="cosine", impl=impl)
    step = found.partial_fit(rows(100, 7, seed=5), impl=impl)
    np.testing.assert_allclose(np.linalg.norm(step.centroids, axis=1), 1, rtol=1e-6)
    assert (step.labels == step.predict(rows(100, 7, seed=5), impl=impl)).all()
    opposite = found.partial_fit(-found.centroids[:1] * 3, decay=0.0, impl=impl)
    assert opposite.sizes.sum() == 1


def test_ways_to_stop(impl: str) -> None:
    x = rows(1500, 6, seed=1)
    options = {"init": x[:12], "max_iter": 200, "impl": impl}
    inertia = [kmeans(x, 12, init=x[:12], max_iter=i, stop="labels", impl=impl).inertia for i in range(8)]
    falls = [(a - b) / a for a, b in itertools.pairwise(inertia)]
    tol = (falls[3] + falls[4]) / 2
    expected = next(i for i, fall in enumerate(falls) if fall <= tol) + 1
    assert kmeans(x, 12, stop="inertia", tol=tol, **options).n_iter == expected
    labels = kmeans(x, 12, stop="labels", tol=1e9, **options)
    assert labels.changed == 0
    assert labels.n_iter == kmeans(x, 12, stop="shift", tol=0, **options).n_iter > expected
    assert kmeans(x, 12, stop="shift", tol=1e9, **options).n_iter == 1


def test_an_empty_cluster_is_an_error_where_asked(impl: str) -> None:
    first = np.concatenate([X[:2], X[:1] + 1e4])
    with pytest.raises(ValueError, match="cluster 2 is empty"):
        kmeans(X, 3, init=first, empty="error", impl=impl)
    with pytest.raises(ValueError, match="cluster 2 in problem 1 is empty"):
        kmeans(np.stack([X, X]), 3, init=np.stack([X[:3], first]), empty="error", impl=impl)
    kept = kmeans(X, 3, init=first, empty="keep", impl=impl)
    assert kept.sizes.tolist()[2] == 0
    assert kept.centroids[2].tolist() == first[2].tolist()
    assert kept.radii[2] == 0


def test_split_takes_from_the_largest_cluster(impl: str) -> None:
    """The largest cluster is the tight one; "farthest" takes the outlier of the other."""
    x = np.array([[0.0], [0.1], [0.2], [0.3], [0.5], [10.0], [11.0], [14.0]])
    first = np.array([[0.0], [10.0], [1e6]])
    farthest, split = (kmeans(x, 3, init=first, empty=e, max_iter=1, impl=impl) for e in ("farthest", "split"))
    assert farthest.centroids[2, 0] == 14
    assert split.centroids[2, 0] == 0.5


def test_rows_of_no_weight_are_labelled_and_count_for_nothing(impl: str) -> None:
    weights = np.ones(400)
    weights[::3] = 0
    found = kmeans(X, 5, init=X[1:6], sample_weight=weights, impl=impl)
    alone = kmeans(X[weights > 0], 5, init=X[1:6], impl=impl)
    np.testing.assert_allclose(found.centroids, alone.centroids, rtol=1e-5)
    assert (found.labels[weights > 0] == alone.labels).all()
    assert found.sizes.sum() == 400


HUGE = np.full((4, 2), 1e100)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (X, {"stop": "soon"}, ValueError, "stop='soon'"),
        (X, {"precision": "tf32"}, ValueError, "precision='tf32'"),
        (X, {"empty": "drop"}, ValueError, "empty='drop'"),
        (X, {"non_finite": "skip"}, ValueError, "non_finite='skip'"),
        (X, {"seed": 2**64}, ValueError, "seed="),
        (X[:, :0], {}, ValueError, "no columns"),
        (X, {"sample_weight": np.full(400, -1.0)}, ValueError, "is -1.0 in row 0"),
        (X, {"sample_weight": np.full(400, np.nan)}, ValueError, "is nan in row 0"),
        (X, {"sample_weight": np.zeros(400)}, ValueError, "zero for all rows"),
        (X, {"sample_weight": np.ones(3)}, ValueError, "3 numbers for 400 rows"),
        (X, {"sample_weight": np.full(400, 1e91)}, ValueError, "sample_weight holds 1e[+]91"),
        (HUGE, {}, ValueError, "x holds 1e[+]100"),
        (X, {"init": np.full((2, 7), 1e39)}, ValueError, "range of torch.float32"),
        (X, {"init": np.full((2, 7), 1)}, TypeError, "init must be floating point"),
        (X[None, None], {}, ValueError, r"\[N, d\] or \[B, N, d\]"),
        (X, {"k": [2, 3]}, ValueError, "k has 2 numbers for 1 problems"),
        (X, {"cu_rows": np.array([0, 399])}, ValueError, "from 0 to N=400, not from 0 to 399"),
        (X, {"cu_rows": np.array([0, 300, 200, 400])}, ValueError, "must not fall, but does after problem 0"),
        (X, {"cu_rows": np.array([0.0, 400.0])}, TypeError, "cu_rows must be int32"),
        (X, {"cu_rows": np.array([[0, 400]])}, ValueError, r"cu_rows must be \[B \+ 1\]"),
        (X, {"cu_rows": np.array([0, 1, 400])}, ValueError, "k=2 clusters of N=1 rows in problem 0"),
        (X, {"cu_rows": np.array([0, 100, 400]), "k": [2, 301]}, ValueError, "N=300 rows in problem 1"),
        (X, {"cu_rows": np.array([0, 100, 400]), "sample_weight": np.r_[np.ones(100), np.zeros(300)]}, ValueError,
         "zero for all rows in problem 1"),
        (X, {"cu_rows": np.array([0, 400]), "init": X[:2]}, ValueError, r"\[B, k, d\] = \[1, 2, 7\]"),
    ],
)  # fmt: skip
def test_bad_arguments(x: np.ndarray, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kmeans(x, **{"k": 2, **options})


def test_too_few_finite_rows() -> None:
    x = X[:5].copy()
    x[1:4, 0] = np.nan
    with pytest.raises(ValueError, match="k=3 clusters of N=2 finite rows"):
        kmeans(x, 3, non_finite="ignore")
    found = kmeans(x, 2, non_finite="ignore")
    assert found.labels.tolist()[1:4] == [-1, -1, -1]
    stacked = kmeans(np.stack([X[:5], x]), 2, non_finite="ignore", init=np.stack([X[:2], X[[0, 4]]]))
    assert (stacked.labels == -1).sum(1).tolist() == [0, 3]


def test_bad_rows_for_a_result() -> None:
    found = kmeans(X, 3)
    for call, message in (
        (lambda: found.predict(X[:, :3]), "3 columns, the centroids have 7"),
        (lambda: found.predict(X[None]), "not laid out"),
        (lambda: found.predict(np.full((2, 7), np.nan, np.float32)), "first is row 0"),
        (lambda: found.top_m(X, 4), "m=4 must be from 1 to"),
        (lambda: found.top_m(X, 0), "m=0"),
        (lambda: found.predict(X, precision="half"), "precision='half'"),
        (lambda: found.partial_fit(X, decay=1.5), "decay=1.5"),
        (lambda: found.partial_fit(X[:0]), "no rows"),
        (lambda: found.partial_fit(X, sample_weight=np.zeros(400)), "zero for all rows"),
        (lambda: kmeans(X[None], 3).transform(X[None]), "one problem"),
        (lambda: kmeans(X[None], 3).partial_fit(X[None]), "one problem"),
        (lambda: kmeans(X[None], 3).predict(X), "not laid out"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="do not go with centroids of"):
        found.predict(X.astype(np.float64))
    assert found.predict(X[:0]).shape == (0,)
