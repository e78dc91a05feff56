"""Clusters: unit-length rows, numbering, the elbow, and other libraries' k-means by name."""

from __future__ import annotations

import importlib.util
import sys
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from adaptinf.config import SelectionConfig
from adaptinf.errors import ClusterCountError, ConfigError, MissingDependencyError, NonFiniteError
from adaptinf.selection import cluster, make_selector
from adaptinf.selection.backends import Backend
from adaptinf.selection.cluster import ELBOW_COUNTS, elbow, normalise


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


def test_auto_takes_the_elbow_of_a_curve_that_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    x, group = groups([30] * 10, seed=3)
    found = cluster(x, "auto", seed=1)
    assert found.k == 10
    assert [count for count, _ in found.elbow] == list(ELBOW_COUNTS)
    assert found.elbow == [(count, cluster(x, count, seed=1).inertia) for count in ELBOW_COUNTS]
    assert len(set(zip(group.tolist(), found.labels.tolist(), strict=True))) == 10
    assert cluster(x, 10, seed=1).elbow == []
    few = cluster(x[::8], "auto", seed=1)  # 38 rows
    assert [count for count, _ in few.elbow] == [5, 10, 15, 20, 25, 30, 35]
    monkeypatch.setattr(sys.modules["adaptinf.selection.cluster"], "ELBOW_ROWS", 150)
    part = cluster(x, "auto", seed=1)
    assert part.k == 10
    assert sum(part.sizes) == len(x)
    assert part.elbow[1][1] < 0.7 * found.elbow[1][1]
    with pytest.raises(ClusterCountError, match="at least 5 samples, the pool has 4"):
        cluster(x[:4], "auto")


def installed(backend: str) -> None:
    if backend == "adaptinf":
        return
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if backend == "cuvs" and not torch.cuda.is_available():
        pytest.skip("cuVS needs a CUDA device")


@pytest.mark.parametrize("backend", get_args(Backend))
def test_every_backend_keeps_the_contract(backend: Backend) -> None:
    installed(backend)
    x, group = groups([300, 900, 600])  # more rows a cluster than FAISS takes unless told
    found = cluster(x, 3, seed=1, backend=backend)
    np.testing.assert_array_equal(found.labels, np.array([2, 0, 1])[group])
    assert found.labels.dtype == np.int32
    rows, _ = normalise(x)
    np.testing.assert_allclose(found.centroids, [rows[group == g].mean(axis=0) for g in (1, 2, 0)], atol=2e-6)

    noise = np.random.default_rng(0).normal(size=(3000, 24)).astype(np.float32)
    found = cluster(noise, 40, seed=2**40 + 7, backend=backend)
    unit = noise.astype(np.float64) / np.linalg.norm(noise, axis=1, keepdims=True)
    distances = np.square(unit[:, None] - found.centroids[None].astype(np.float64)).sum(2)
    own = distances[np.arange(3000), found.labels]
    assert found.centroids.dtype == np.float32
    assert found.sizes == np.bincount(found.labels).tolist() == sorted(found.sizes, reverse=True)
    assert found.inertia == pytest.approx(own.sum(), rel=1e-5)
    # |x|^2 - 2 x.c + |c|^2 of unit rows in float32: terms of at most 1, 24 products each rounded
    assert (own - distances.min(1)).max() <= 4 * 24 * 2**-24
    assert 1 < found.n_iter <= 100
    assert found.inertia < 1.02 * cluster(noise, 40, seed=2**40 + 7).inertia

    again = cluster(noise, 40, seed=2**40 + 7, backend=backend)
    np.testing.assert_array_equal(again.labels, found.labels)
    other = cluster(noise, 40, seed=8, backend=backend)
    assert (other.labels != found.labels).any()

    few = cluster(np.repeat([[1.0, 0], [0, 2], [3, 0]], [40, 50, 30], axis=0), 2, backend=backend)
    assert few.sizes == [70, 50]
    assert cluster(noise[:5], 5, backend=backend).sizes == [1] * 5


@pytest.mark.parametrize(("backend", "remedy"), [("faiss", r"adaptinf\[faiss\]"), ("cuvs", r"adaptinf\[cuvs\]")])
def test_a_backend_that_is_missing_is_an_error(backend: Backend, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, backend, None)  # what an import of it finds
    x, _ = groups([20, 30])
    with pytest.raises(MissingDependencyError, match=rf"backend={backend}: .*\n.*pip install '{remedy}'.*adaptinf$"):
        cluster(x, 2, backend=backend)
    with pytest.raises(MissingDependencyError, match=backend):
        cluster(x, "auto", backend=backend)


def test_backends_have_names() -> None:
    assert get_args(get_type_hints(SelectionConfig)["backend"]) == get_args(Backend)
    assert make_selector("paper", SelectionConfig(backend="faiss")).backend == "faiss"
    with pytest.raises(ConfigError, match="sklearn: unknown backend"):
        cluster(groups([5, 5])[0], 2, backend="sklearn")
