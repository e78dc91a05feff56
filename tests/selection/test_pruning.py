"""Permanent pruning: exact counts, water-filled over clusters, the most distant kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptinf.errors import BudgetError, ConfigError, DataError, DuplicateIdError, NonFiniteError
from adaptinf.selection import prune, water_fill


def make_pool(n: int, k: int = 3, seed: int = 0, dim: int = 6) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    table = pa.table({"id": [f"s{i:04d}" for i in rng.permutation(n)]})
    return table, rng.normal(size=(n, dim)), rng.integers(0, k, n)


def similarities(x: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brute force in float64: M_j and its argument over the rows before j in the same cluster (-inf for the first)."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    m, of = np.full(len(x), -np.inf), np.full(len(x), -1)
    for j in range(len(x)):
        before = [i for i in range(j) if clusters[i] == clusters[j]]
        if before:
            cosines = unit[before] @ unit[j]
            m[j], of[j] = cosines.max(), before[int(cosines.argmax())]
    return m, of


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 6), st.integers(1, 90), st.integers(0, 999))
def test_lowest_similarity_stays_and_counts_are_exact(n: int, k: int, budget: int, seed: int) -> None:
    table, x, clusters = make_pool(n, k, seed)
    result = prune(table, x, budget, clusters=clusters, order="given")
    m, of = similarities(x, clusters)
    assert result.kept.sum() == min(budget, n)
    names, sizes = np.unique(clusters, return_counts=True)
    for name, share in zip(names, water_fill(sizes.tolist(), budget), strict=True):
        rows = np.flatnonzero(clusters == name)
        assert result.kept[rows].sum() == share
        kept, dropped = m[rows][result.kept[rows]], m[rows][~result.kept[rows]]
        if len(kept) and len(dropped):
            assert kept.max() <= dropped.min() + 1e-5
    np.testing.assert_allclose(result.max_similarity, np.where(np.isinf(m), np.nan, m), atol=1e-5)
    for j in np.flatnonzero(~result.kept & np.isfinite(m)):
        i = result.duplicate_of[j]
        assert clusters[i] == clusters[j]
        assert i < j
        cosine = x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
        assert cosine == pytest.approx(m[j], abs=1e-5)
        assert of[j] >= 0
    assert (result.duplicate_of[result.kept] == -1).all()


def test_copies_go_first() -> None:
    table, x, _ = make_pool(60)
    x[30:] = x[:30] * np.linspace(0.5, 3, 30)[:, None]
    result = prune(table, x, 30, order="given")
    assert result.kept[:30].all()
    assert result.duplicate_of[30:].tolist() == list(range(30))
    np.testing.assert_allclose(result.max_similarity[30:], 1, atol=1e-6)
    assert result.reason[40] == "dropped: near-duplicate in cluster 0"
    assert result.reason[3] == "kept: 30 of 60 of cluster 0"


def test_greedy_counts_only_what_is_kept() -> None:
    """On a chain a-b-c, b is like a and c is like b: SemDeDup drops both, greedy keeps c, which is unlike a."""
    angle = np.radians([0, 20, 40, 130])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    table = pa.table({"id": list("abcd")})
    assert prune(table, x, 3, order="given", keep="greedy").kept.tolist() == [True, False, True, True]
    assert prune(table, x, 2, order="given").kept.tolist() == [True, False, False, True]


@pytest.mark.parametrize("keep", ["reference", "greedy"])
def test_every_way_of_keeping_is_exact(keep: str) -> None:
    table, x, clusters = make_pool(100, 4)
    x[50:] = x[:50]
    for budget in (1, 3, 20, 50, 77, 100):
        kept = prune(table, x, budget, clusters=clusters, keep=keep).kept  # pyright: ignore[reportArgumentType]
        assert kept.sum() == budget


@pytest.mark.parametrize("order", ["shuffle", "centroid_distance"])
def test_decision_does_not_depend_on_the_order_of_the_table(order: str) -> None:
    table, x, clusters = make_pool(80)
    args = {"order": order, "seed": 5}
    kept = prune(table, x, 30, clusters=clusters, **args).kept  # pyright: ignore[reportArgumentType]
    mix = np.random.default_rng(1).permutation(80)
    mixed = prune(table.take(pa.array(mix)), x[mix], 30, clusters=clusters[mix], **args)  # pyright: ignore[reportArgumentType]
    assert (mixed.kept == kept[mix]).all()


def test_given_order_decides_and_shuffle_follows_the_seed() -> None:
    """Order dependence is part of the method: of two copies the one that comes first stays."""
    table, x, _ = make_pool(40)
    x[20:] = x[:20]
    assert prune(table, x, 20, order="given").kept[:20].all()
    backwards = prune(table.take(pa.array(np.arange(40)[::-1])), x[::-1], 20, order="given")
    assert backwards.kept[:20].all()  # the former second copies
    one, same, other = (prune(table, x, 20, seed=seed).kept for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_farthest_from_the_centroid_comes_first() -> None:
    x = np.array([[1.0, 0.0], [1.0, 0.02], [1.0, 0.5], [1.0, -0.1]])
    kept = prune(pa.table({"id": list("abcd")}), x, 1, order="centroid_distance").kept
    assert kept.tolist() == [False, False, True, False]


def test_budget_is_a_capacity() -> None:
    table, x, clusters = make_pool(10)
    assert prune(table, x, 99, clusters=clusters).kept.all()
    assert prune(table, x, 0.5, clusters=clusters).kept.sum() == 5
    few = prune(table, x, 2, clusters=clusters)
    assert few.kept.sum() == 2
    assert few.duplicate_of.dtype == np.int64


def test_bad_input() -> None:
    table, x, clusters = make_pool(10)
    with pytest.raises(BudgetError):
        prune(table, x, 0)
    with pytest.raises(BudgetError, match="empty"):
        prune(table.slice(0, 0), x[:0], 1)
    with pytest.raises(ConfigError, match="order"):
        prune(table, x, 5, order="random")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="keep"):
        prune(table, x, 5, keep="all")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="embeddings"):
        prune(table, x[:9], 5)
    with pytest.raises(DataError, match="clusters"):
        prune(table, x, 5, clusters=clusters[:9])
    with pytest.raises(DuplicateIdError):
        prune(pa.table({"id": ["a"] * 10}), x, 5)
    x[4, 1] = np.inf
    with pytest.raises(NonFiniteError, match=table["id"][4].as_py()):
        prune(table, x, 5)
