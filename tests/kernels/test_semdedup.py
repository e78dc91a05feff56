"""De-duplication against brute force, and its promises on drawn inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adaptinf_kernels import semdedup
from adaptinf_kernels.semdedup import reference
from hypothesis import given, settings
from hypothesis import strategies as st


def drifting(n: int = 120, d: int = 6, seed: int = 0) -> np.ndarray:
    """A slowly turning stream: chains of near-duplicates whose ends are unlike."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(size=(n, d)), axis=0).astype(np.float32)


def cosines(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(norm == 0, 1, norm)
    return unit @ unit.T


def paper_rule(x: np.ndarray, labels: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, its argmax) by Algorithm A7, one cluster after the other; NaN and -1 where nothing comes before."""
    similar = cosines(x)
    M, match = np.full(len(x), np.nan), np.full(len(x), -1)
    for cluster in np.unique(labels):
        rows = np.flatnonzero(labels == cluster)
        rows = rows[np.argsort(rank[rows], kind="stable")]
        S = np.triu(similar[np.ix_(rows, rows)], 1) + np.tril(np.full((len(rows), len(rows)), -np.inf))
        for j in range(1, len(rows)):
            M[rows[j]], match[rows[j]] = S[:, j].max(), rows[S[:, j].argmax()]
    return M, match


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return drifting(), rng.integers(0, 4, 120) * 7 - 3, rng.permutation(120)


@pytest.mark.parametrize("block", [1, 13, 1024])
@pytest.mark.parametrize("eps", [0.0, 0.05, 0.5, 1.2, 2.0])
def test_reference_is_the_paper(problem: tuple, eps: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_BLOCK", block)
    x, labels, rank = problem
    M, match = paper_rule(x, labels, rank)
    found = semdedup(x, labels, eps=eps, keep="reference", rank=rank)
    np.testing.assert_allclose(found.max_similarity, M, atol=1e-6)
    certain = np.isnan(M) | (np.abs(M - (1 - eps)) > 1e-6)
    assert (found.kept == ~(1 - eps < M))[certain].all()
    assert (found.duplicate_of == np.where(found.kept, -1, match)).all()
    assert found.kept[[np.flatnonzero(labels == c)[rank[labels == c].argmin()] for c in np.unique(labels)]].all()


def test_similarities_may_be_negative() -> None:
    """The released code takes the maximum with 0; then these two would tie."""
    x = np.array([[1.0, 0], [-1, 0.1], [-1, -3]], dtype=np.float32)
    found = semdedup(x, budget=2, keep="reference")
    assert found.max_similarity[1] < 0
    assert found.kept.tolist() == [True, True, False]


@pytest.mark.parametrize("budget", [0, 1, 50, 119, 120])
def test_reference_budget_over_all(problem: tuple, budget: int) -> None:
    x, labels, rank = problem
    M, _ = paper_rule(x, labels, rank)
    kept = semdedup(x, labels, budget=budget, keep="reference", rank=rank).kept
    assert kept.sum() == budget
    assert set(np.lexsort((rank, np.nan_to_num(M, nan=-9)))[:budget]) == set(np.flatnonzero(kept))


@pytest.mark.parametrize("keep", ["reference", "greedy"])
def test_budget_per_cluster(problem: tuple, keep: str) -> None:
    x, labels, rank = problem
    sizes = np.unique(labels, return_counts=True)[1]
    shares = [0, 1, int(sizes[2]), int(sizes[3]) // 2]
    found = semdedup(x, labels, budget=shares, keep=keep, rank=rank)
    assert [int(found.kept[labels == c].sum()) for c in np.unique(labels)] == shares
    assert (found.duplicate_of[found.kept] == -1).all()
    dropped = np.flatnonzero(~found.kept & ~np.isnan(found.max_similarity))
    assert (labels[found.duplicate_of[dropped]] == labels[dropped]).all()


def test_ties_go_by_rank() -> None:
    x = np.ones((6, 3), dtype=np.float32)
    rank = np.array([5, 4, 3, 0, 1, 2])
    for keep in ("reference", "greedy"):
        assert np.flatnonzero(semdedup(x, budget=3, keep=keep, rank=rank).kept).tolist() == [3, 4, 5]
    assert semdedup(x, eps=0.1, rank=rank).kept.tolist() == [False] * 3 + [True] + [False] * 2


def test_farthest_first_is_gonzalez() -> None:
    x = drifting(50)
    similar = cosines(x)
    chosen = [0]
    while len(chosen) < 12:
        closest = similar[:, chosen].max(1)
        closest[chosen] = np.inf
        chosen.append(int(closest.argmin()))
    found = semdedup(x, budget=12)
    assert set(np.flatnonzero(found.kept)) == set(chosen)
    dropped = np.flatnonzero(~found.kept)
    np.testing.assert_allclose(found.max_similarity[dropped], similar[dropped][:, chosen].max(1), atol=1e-6)
    assert found.kept[found.duplicate_of[dropped]].all()
    when_chosen = [similar[row, chosen[:i]].max() for i, row in enumerate(chosen) if i]
    np.testing.assert_allclose(found.max_similarity[chosen[1:]], when_chosen, atol=1e-6)


@st.composite
def drawn(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    n = draw(st.integers(1, 40))
    x = np.array(draw(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=n, max_size=n)), dtype=np.float32)
    labels = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    rank = np.array(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))
    return x, labels, rank, draw(st.sampled_from([0.01, 0.1, 0.4, 0.9, 1.3]))


@settings(max_examples=150, deadline=None)
@given(drawn())
def test_greedy_promises(case: tuple) -> None:
    """Kept rows are apart, every removed row has a kept one of lower rank within eps: no chains."""
    x, labels, rank, eps = case
    found = semdedup(x, labels, eps=eps, rank=rank)
    similar = cosines(x)
    order = np.argsort(np.argsort(rank, kind="stable"))
    kept = np.flatnonzero(found.kept)
    for i in kept:
        others = kept[(labels[kept] == labels[i]) & (kept != i)]
        assert (similar[i, others] <= 1 - eps + 1e-6).all()
    for j in np.flatnonzero(~found.kept):
        i = found.duplicate_of[j]
        assert found.kept[i]
        assert labels[i] == labels[j]
        assert order[i] < order[j]
        assert similar[i, j] > 1 - eps - 1e-6
        assert found.max_similarity[j] == pytest.approx(similar[i, j], abs=1e-6)
    assert (found.duplicate_of[found.kept] == -1).all()


@settings(max_examples=50, deadline=None)
@given(drawn(), st.integers(1, 9))
def test_blocks_change_nothing(case: tuple, block: int) -> None:
    x, labels, rank, eps = case
    whole = [semdedup(x, labels, eps=eps, keep=keep, rank=rank) for keep in ("greedy", "reference")]
    before, reference._BLOCK = reference._BLOCK, block
    try:
        pieces = [semdedup(x, labels, eps=eps, keep=keep, rank=rank) for keep in ("greedy", "reference")]
    finally:
        reference._BLOCK = before
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(a.max_similarity, b.max_similarity, atol=1e-6)
        away = ~(np.abs(a.max_similarity - (1 - eps)) < 1e-5)
        if away.all():
            assert (a.kept == b.kept).all()


def test_a_chain_loses_only_what_a_kept_row_resembles() -> None:
    """a-b and b-c alike, a-c not: the paper's rule loses c although nothing kept resembles it, greedy keeps it."""
    angles = np.deg2rad([0, 16, 32])
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert semdedup(x, eps=0.05, keep="reference").kept.tolist() == [True, False, False]
    assert semdedup(x, eps=0.05).kept.tolist() == [True, False, True]


def test_zero_rows_and_magnitudes() -> None:
    x = np.array([[0, 0], [0, 0], [1e-30, 0], [1e30, 0], [0, 1]], dtype=np.float32)
    found = semdedup(x, eps=0.1)
    assert found.kept.tolist() == [True, True, True, False, True]
    assert found.duplicate_of[3] == 2


def test_families_and_layouts() -> None:
    x = drifting(30)
    first = semdedup(x, eps=0.1)
    again = semdedup(torch.from_numpy(x).T.contiguous().T.requires_grad_(), torch.zeros(30, dtype=torch.int32), eps=0.1)
    assert isinstance(first.kept, np.ndarray)
    assert isinstance(again.kept, torch.Tensor)
    assert (first.kept.dtype, first.duplicate_of.dtype, first.max_similarity.dtype) == (np.bool_, np.int64, np.float32)
    assert (again.kept.numpy() == first.kept).all()
    assert semdedup(x[:0], eps=0.1).kept.shape == (0,)
    assert semdedup(x[:0], budget=0, keep="reference").kept.shape == (0,)


@pytest.mark.parametrize(
    "options", [{"eps": 0.3}, {"eps": 0.3, "keep": "reference"}, {"budget": 500, "keep": "reference"}, {"budget": 50}]
)
def test_never_holds_all_similarities(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    held, cosines = [], reference._cosines
    monkeypatch.setattr(reference, "_cosines", lambda a, b: held.append(len(a) * len(b)) or cosines(a, b))
    semdedup(np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32), **options)
    assert max(held) <= reference._BLOCK**2
    assert sum(held) >= 3000 * 49


GOOD = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((GOOD,), {}, ValueError, "either eps or budget"),
        ((GOOD,), {"eps": 0.1, "budget": 2}, ValueError, "either eps or budget"),
        ((GOOD,), {"eps": -0.1}, ValueError, "eps=-0.1"),
        ((GOOD,), {"eps": float("nan")}, ValueError, "eps=nan"),
        ((GOOD,), {"eps": 0.1, "keep": "best"}, ValueError, "keep='best'"),
        ((GOOD,), {"budget": 5}, ValueError, "budget=5 of N=4"),
        ((GOOD,), {"budget": [2, 2]}, ValueError, "2 numbers for 1 clusters"),
        ((GOOD, [0, 0, 0, 1]), {"budget": [2, 2]}, ValueError, r"budget\[1\]=2 of a cluster of 1"),
        ((GOOD, [0, 0, 0, 1]), {"budget": 2}, ValueError, "a budget for each"),
        ((GOOD, [0, 0, 0]), {"eps": 0.1}, ValueError, r"labels must be \[N=4\]"),
        ((GOOD, [0.0, 0, 0, 0]), {"eps": 0.1}, TypeError, "float32"),
        ((GOOD,), {"eps": 0.1, "rank": [1, 2]}, ValueError, r"rank must be \[N=4\]"),
        ((GOOD,), {"eps": 0.1, "rank": [1, 2, float("nan"), 3]}, ValueError, r"rank\[2\] is NaN"),
        ((GOOD * np.array([[1], [np.nan], [1], [1]]),), {"eps": 0.1}, ValueError, "row 1"),
        ((GOOD.astype(int),), {"eps": 0.1}, TypeError, "int64"),
        ((GOOD,), {"eps": 0.1, "impl": "native"}, RuntimeError, "only reference"),
    ],
)
def test_bad_arguments(arguments: tuple, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        semdedup(*arguments, **options)
