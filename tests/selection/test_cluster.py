"""Clusters: unit-length rows, numbering, the elbow."""

from __future__ import annotations

import numpy as np
import pytest

from adaptinf.errors import ClusterCountError, NonFiniteError
from adaptinf.selection import cluster
from adaptinf.selection.cluster import elbow, normalise


def groups(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    return np.eye(len(sizes), 12)[group] + 0.03 * rng.normal(size=(len(group), 12)), group


def test_groups_are_found_and_numbered_by_size() -> None:
    x, group = groups([20, 70, 40])
    found = cluster(x, 3, seed=1)
    assert found.sizes == [70, 40, 20]
    assert found.k == 3
    assert found.labels.dtype == np.int32
    np.testing.assert_array_equal(found.labels, np.array([2, 0, 1])[group])


def test_inertia_and_centroids_are_those_of_the_labels() -> None:
    x, _ = groups([30, 50, 40])
    found = cluster(x * 17, 3, seed=1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    centroids = np.stack([unit[found.labels == c].mean(axis=0) for c in range(3)])
    np.testing.assert_allclose(found.centroids, centroids, atol=1e-5)
    assert found.inertia == pytest.approx(((unit - centroids[found.labels]) ** 2).sum(), rel=1e-4)


def test_normalise_is_safe_at_any_magnitude() -> None:
    rows = np.array([[3e300, 4e300], [3e-310, 4e-310], [0.0, 0.0], [-1.0, 0.0]])
    unit, zero = normalise(rows)
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
    assert zero == 1
    assert unit.dtype == np.float32
    half, _ = normalise(np.full((2, 4), 60000.0, dtype=np.float16))
    np.testing.assert_allclose(half, 0.5)


def test_elbow_of_hand_made_curves() -> None:
    assert elbow([(5, 100.0), (10, 20.0), (15, 15.0), (20, 10.0)]) == 10
    assert elbow([(5, 30.0), (10, 20.0), (15, 10.0)]) == 5  # a straight line has none
    assert elbow([(5, 100.0), (10, 12.0), (15, 14.0), (20, 10.0)]) == 10  # a local optimum
    assert elbow([(5, 7.0), (10, 7.0), (15, 7.0)]) == 5
    assert elbow([(5, 9.0), (10, 1.0)]) == 5


def test_fewer_directions_than_clusters() -> None:
    found = cluster(np.repeat([[1.0, 0], [0, 2], [3, 0]], [4, 5, 3], axis=0), 6)
    assert found.sizes == [7, 5]
    assert found.k == 2
    assert found.labels.tolist() == [0] * 4 + [1] * 5 + [0] * 3


def test_bad_input() -> None:
    x, _ = groups([5, 5])
    with pytest.raises(ClusterCountError, match="11 clusters were asked of 10"):
        cluster(x, 11)
    x[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match="row 3"):
        cluster(x, 2)
