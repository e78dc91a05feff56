"""The scikit-learn estimator: scikit-learn's own checks, and the bits of the op."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
from adaptinf_kernels import kmeans

from adaptinf.errors import MissingDependencyError

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from adaptinf.selection import KMeans

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(300, 5)) + 4 * RNG.integers(0, 3, size=(300, 1))).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}], ids=["euclidean", "cosine"])
def test_scikit_learns_own_checks(options: dict) -> None:
    """All but the one that scikit-learn waives for its own KMeans: what is drawn at the start depends on order."""
    waived = {"check_sample_weight_equivalence_on_dense_data": "random rows at the start"}
    outcomes = check_estimator(KMeans(n_clusters=3, **options), expected_failed_checks=waived)
    assert len(outcomes) > 50
    assert {one["check_name"] for one in outcomes if one["status"] == "xfail"} <= set(waived)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_bits_are_those_of_the_op(metric: str, dtype: type) -> None:
    x, weights = X.astype(dtype), RNG.random(300)
    first = x[:4]
    found = KMeans(4, init=first, metric=metric).fit(x, sample_weight=weights)
    op = kmeans(x, 4, init=first, max_iter=300, metric=metric, sample_weight=weights)
    assert found.labels_.tolist() == op.labels.tolist()
    assert found.cluster_centers_.tobytes() == op.centroids.tobytes()
    assert (found.inertia_, found.n_iter_) == (op.inertia, op.n_iter)
    assert (found.predict(x) == found.labels_).all()
    assert (found.transform(x).argmin(1) == found.labels_).all()
    assert found.score(x, sample_weight=weights) == pytest.approx(-found.inertia_, rel=1e-6)
    assert (found.fit_predict(x) == found.fit(x).labels_).all()
    assert found.get_feature_names_out().tolist() == ["kmeans0", "kmeans1", "kmeans2", "kmeans3"]


def test_the_seed_comes_from_random_state() -> None:
    one, two, other = (KMeans(6, init="random", max_iter=0, random_state=s).fit(X).labels_ for s in (1, 1, 2))
    assert (one == two).all()
    assert (one != other).any()


def test_steps() -> None:
    model = KMeans(3, random_state=0, decay=0.5)
    for part in np.split(X, 3):
        model.partial_fit(part)
    result = kmeans(X[:100], 3, max_iter=300, seed=int(np.random.RandomState(0).randint(np.iinfo(np.int32).max)))
    for part in np.split(X, 3)[1:]:
        result = result.partial_fit(part, decay=0.5)
    assert model.cluster_centers_.tobytes() == result.centroids.tobytes()
    assert (model.labels_ == result.labels).all()


def test_in_a_pipeline_and_copied() -> None:
    pipeline = make_pipeline(StandardScaler(), KMeans(3, random_state=0)).fit(X)
    again = copy.deepcopy(pipeline)
    assert (again.predict(X) == pipeline.predict(X)).all()
    assert again.transform(X).shape == (300, 3)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "adaptinf.selection.estimator")
    with pytest.raises(MissingDependencyError, match=r"adaptinf\[sklearn\]"):
        from adaptinf.selection import KMeans  # noqa: F401
