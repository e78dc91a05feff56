"""De-duplication against brute force, and its promises on drawn inputs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from adaptinf_kernels import build_info, semdedup
from adaptinf_kernels.semdedup import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import semdedup_oracle as oracle

IMPLS = ["reference", *(["native"] if build_info()["native"] else [])]
EPS = [0.0, 1e-7, 0.003, 0.05, 0.5, 1.2, 2.0]
BUDGETS = [0, 1, 37, 0.5, 1.0]


def drifting(n: int = 120, d: int = 6, seed: int = 0) -> np.ndarray:
    """A slowly turning stream: chains of near-duplicates whose ends are unlike."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(size=(n, d)), axis=0).astype(np.float32)


def cosines(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(norm == 0, 1, norm)
    return unit @ unit.T


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return drifting(), rng.integers(0, 4, 120) * 7 - 3, rng.permutation(120)


KINDS = ["normal", "drifting", "copies", "small integers", "one row and noise", "two rows and noise", "last bits"]


def rows(kind: str, n: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    if kind == "drifting":
        x = x.cumsum(0)
    elif kind == "copies":
        x = x[torch.randint(0, max(1, n // 3), (n,), generator=generator)]
        x *= torch.randint(0, 3, (n, 1), generator=generator)  # zero rows, and copies of other lengths
    elif kind == "small integers":
        x = torch.randint(-1, 2, (n, d), generator=generator).float()
    elif kind == "one row and noise":
        x = torch.randn(1, d, generator=generator) + 1e-3 * x
    elif kind == "two rows and noise":
        x = torch.randn(2, d, generator=generator)[torch.randint(0, 2, (n,), generator=generator)] + 1e-3 * x
    elif kind == "last bits":  # several similarities of 1, and beyond it but for rounding
        x = torch.randn(1, d, generator=generator) * (1 + 2.0**-22 * torch.randint(-1, 2, (n, d), generator=generator))
    return x.to(dtype)


def clusters_of(x: torch.Tensor, labels: np.ndarray, rank: np.ndarray) -> list[tuple[np.ndarray, oracle.Cluster]]:
    """(rows in order of rank, the cluster) in ascending order of labels."""
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(rank[members], kind="stable")]
        found.append((members, oracle.Cluster(x.double().numpy()[members])))
    return found


def same(found: object, kept: np.ndarray, before: np.ndarray, similarity: np.ndarray) -> None:
    """Bit for bit."""
    np.testing.assert_array_equal(found.kept, kept)
    np.testing.assert_array_equal(found.max_similarity, similarity.clip(-1, 1).astype(np.float32))
    np.testing.assert_array_equal(found.duplicate_of, np.where(kept, -1, before))


def drawn_problem(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.integers(0, 3, n) * 7 - 3, rng.integers(0, n, n)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "d", "dtype"),
    [
        (1, 1, torch.float32),
        (63, 8, torch.float16),
        (150, 33, torch.float32),
        (70, 5, torch.float64),
        (40, 17, torch.bfloat16),
    ],
)
def test_thresholds_by_brute_force(impl: str, kind: str, n: int, d: int, dtype: torch.dtype) -> None:
    """Every rule for every threshold, bit for bit; "reference" is Algorithm A7."""
    x = rows(kind, n, d, dtype)
    labels, rank = drawn_problem(n)
    found = {
        keep: semdedup(x, labels, eps=EPS, keep=keep, rank=rank, impl=impl)
        for keep in ("greedy", "reference", "components")
    }
    expected = {
        keep: [np.ones((len(EPS), n), bool), np.full((len(EPS), n), -1), np.full((len(EPS), n), np.nan)]
        for keep in found
    }
    for members, cluster in clusters_of(x, labels, rank):
        before = cluster.reference()
        for result, eps in enumerate(EPS):
            kept, before_kept = cluster.greedy(1 - eps)
            root = cluster.components(1 - eps)
            for j, row in enumerate(members):
                M, match = before[j]
                value, nearest = before_kept[j]
                write(expected["reference"], result, row, not 1 - eps < M, members[match], M)
                write(expected["greedy"], result, row, kept[j], members[nearest], value)
                write(expected["components"], result, row, root[j] == j, members[root[j]], M)
    for keep, parts in expected.items():
        same(found[keep], *parts)


def write(into: list[np.ndarray], result: int, row: int, *values: object) -> None:
    for part, value in zip(into, values, strict=True):
        part[result, row] = value


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("keep", ["greedy", "reference", "components"])
def test_a_sequence_of_thresholds_is_each_of_them(impl: str, keep: str) -> None:
    x = rows("drifting", 200, 9)
    together = semdedup(x, eps=EPS, keep=keep, impl=impl)
    for i, eps in enumerate(EPS):
        alone = semdedup(x, eps=eps, keep=keep, impl=impl)
        same(alone, together.kept[i].numpy(), together.duplicate_of[i].numpy(), together.max_similarity[i].numpy())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", KINDS)
def test_farthest_first_by_brute_force(impl: str, kind: str) -> None:
    """A budget for each cluster; the last cluster is kept whole."""
    x = rows(kind, 90, 7)
    labels, rank = drawn_problem(90)
    parts = clusters_of(x, labels, rank)
    budgets = [0, len(parts[1][0]) // 3, len(parts[2][0])]
    kept, before, similarity = np.zeros(90, bool), np.full(90, -1), np.full(90, np.nan)
    for (members, cluster), budget in zip(parts, budgets, strict=True):
        chosen: list[int] = []
        found = cluster.farthest(budget, chosen)
        kept[members[chosen]] = True
        similarity[members] = [value for value, _ in found]
        before[members] = [-1 if nearest < 0 else members[nearest] for _, nearest in found]
    same(semdedup(x, labels, budget=budgets, rank=rank, impl=impl), kept, before, similarity)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_farthest_first_over_all_clusters(impl: str, kind: str, budget: float) -> None:
    """Again and again the row least similar to the kept ones of its cluster, whatever the cluster; ties by rank."""
    x, n = rows(kind, 80, 7), 80
    labels, rank = drawn_problem(n)
    place = np.argsort(np.argsort(rank, kind="stable"))
    s = oracle.similarities(x.double().numpy())
    s[labels[:, None] != labels[None]] = -np.inf
    value, kept = np.full(n, -np.inf), np.zeros(n, bool)
    for _ in range(round(budget * n) if isinstance(budget, float) else budget):
        row = min(np.flatnonzero(~kept), key=lambda j: (value[j], place[j]))
        kept[row] = True
        value = np.where(kept, value, np.maximum(value, s[row]))
    found = semdedup(x, labels, budget=budget, rank=rank, impl=impl)
    np.testing.assert_array_equal(found.kept, kept)
    value[np.isinf(value)] = np.nan
    np.testing.assert_array_equal(found.max_similarity, value.clip(-1, 1).astype(np.float32))
    dropped = np.flatnonzero(~kept & ~np.isnan(value))
    assert kept[found.duplicate_of[dropped]].all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_shares_are_counts(impl: str, share: float) -> None:
    x = rows("normal", 61, 5)
    for keep in ("greedy", "reference"):
        found = semdedup(x, budget=share, keep=keep, impl=impl)
        same(
            found,
            *(
                getattr(semdedup(x, budget=int(share * 61 + 0.5), keep=keep, impl=impl), part).numpy()
                for part in ("kept", "duplicate_of", "max_similarity")
            ),
        )


def test_similarities_may_be_negative() -> None:
    """The released code takes the maximum with 0; then these two would tie."""
    x = np.array([[1.0, 0], [-1, 0.1], [-1, -3]], dtype=np.float32)
    found = semdedup(x, budget=2, keep="reference")
    assert found.max_similarity[1] < 0
    assert found.kept.tolist() == [True, True, False]


@pytest.mark.parametrize("budget", [0, 1, 50, 119, 120])
def test_reference_budget_over_all(problem: tuple, budget: int) -> None:
    x, labels, rank = problem
    M = np.full(120, -9.0)
    for members, cluster in clusters_of(torch.from_numpy(x), labels, rank):
        M[members] = np.nan_to_num([value for value, _ in cluster.reference()], nan=-9)
    kept = semdedup(x, labels, budget=budget, keep="reference", rank=rank).kept
    assert kept.sum() == budget
    assert set(np.lexsort((rank, M))[:budget]) == set(np.flatnonzero(kept))


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


@st.composite
def drawn(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    n = draw(st.integers(1, 40))
    x = np.array(draw(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=n, max_size=n)), dtype=np.float32)
    labels = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    rank = np.array(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))
    return x, labels, rank, draw(st.sampled_from([0.01, 0.1, 0.4, 0.9, 1.3]))


@settings(max_examples=150, deadline=None)
@given(drawn(), st.sampled_from(IMPLS))
def test_greedy_promises(case: tuple, impl: str) -> None:
    """Kept rows are apart, every removed row has a kept one of lower rank within eps: no chains."""
    x, labels, rank, eps = case
    found = semdedup(x, labels, eps=eps, rank=rank, impl=impl)
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


@settings(max_examples=150, deadline=None)
@given(drawn(), st.sampled_from(IMPLS))
def test_components_promises(case: tuple, impl: str) -> None:
    """Rows go together exactly where a chain of near-duplicates links them, and the first of each group stays."""
    x, labels, rank, eps = case
    found = semdedup(x, labels, eps=eps, keep="components", rank=rank, impl=impl)
    order = np.argsort(np.argsort(rank, kind="stable"))
    joined = np.eye(len(x), dtype=bool)
    for members, cluster in clusters_of(torch.from_numpy(x), labels, rank):
        joined[np.ix_(members, members)] |= cluster.s > 1 - eps
    np.fill_diagonal(joined, True)
    for middle in range(len(x)):  # Warshall
        joined |= joined[:, middle, None] & joined[None, middle]
    first = np.where(joined, order, len(x)).argmin(1)
    np.testing.assert_array_equal(found.kept, first == np.arange(len(x)))
    np.testing.assert_array_equal(found.duplicate_of, np.where(found.kept, -1, first))


@settings(max_examples=150, deadline=None)
@given(drawn(), st.sampled_from(IMPLS))
def test_reference_is_the_papers_pseudo_code(case: tuple, impl: str) -> None:
    """Algorithm A7 on each cluster's similarities: ``M = triu(S, diagonal=1).max(dim=0)``, kept where M <= 1 - eps.

    Its M is at least 0, which for eps beyond 1 would remove the first row of a cluster too.
    """
    x, labels, rank, eps = case
    threshold = max(0.0, 1 - eps)
    found = semdedup(x, labels, eps=min(eps, 1.0), keep="reference", rank=rank, impl=impl)
    for members, cluster in clusters_of(torch.from_numpy(x), labels, rank):
        above = torch.triu(torch.from_numpy(cluster.s), diagonal=1)
        M = above.max(dim=0).values
        np.testing.assert_array_equal(found.kept[members], ~(threshold < M))
        np.testing.assert_array_equal(np.nan_to_num(found.max_similarity[members]).clip(0), M.float())


@pytest.mark.parametrize(("keep", "budgets"), [("greedy", None), ("components", None), ("farthest", [2, 3])])
def test_torch_knows_the_op(keep: str, budgets: list[int] | None) -> None:
    """All but the comparison of a traced call's results, which takes NaN for a difference."""
    place = torch.arange(9)
    thresholds, counts = ([0.5, 0.9], None) if budgets is None else ([], torch.tensor(budgets))
    arguments = (torch.randn(9, 4), place, torch.tensor([0, 4, 9]), place, keep, thresholds, counts, "auto")
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.adaptinf_kernels.semdedup.default, arguments, test_utils=checks)


@pytest.mark.parametrize("keep", ["greedy", "reference", "components"])
@pytest.mark.parametrize("block", [3, 13, 100])
def test_blocks_change_nothing(keep: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows("drifting", 130, 4)
    whole = semdedup(x, eps=0.05, keep=keep, impl="reference")
    monkeypatch.setattr(reference, "_BLOCK", block)
    monkeypatch.setattr(reference, "_PAIRS", 7)
    pieces = semdedup(x, eps=0.05, keep=keep, impl="reference")
    same(pieces, whole.kept.numpy(), whole.duplicate_of.numpy(), whole.max_similarity.numpy())


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
    "options",
    [
        {"eps": 0.3},
        {"eps": 0.3, "keep": "reference"},
        {"eps": 0.3, "keep": "components"},
        {"budget": 500, "keep": "reference"},
        {"budget": 50},
    ],
)
def test_the_reference_never_holds_all_similarities(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    held, pairs = [], []
    products, sums = reference._products, reference.lane8
    monkeypatch.setattr(reference, "_products", lambda a, b: held.append(len(a) * len(b)) or products(a, b))
    monkeypatch.setattr(reference, "lane8", lambda terms: pairs.append(len(terms)) or sums(terms))
    semdedup(rows("normal", 3000, 3), **options, impl="reference")
    assert max(held, default=0) <= reference._BLOCK**2
    assert max(pairs) <= reference._PAIRS
    assert sum(held) + sum(pairs) >= 3000 * 10


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("eps", "precision", "recall"), [(0.005, 0.98, 0.15), (0.02, 0.95, 0.3), (0.1, 0.75, 0.6)])
def test_duplicates_of_real_vectors(shared_data: Path, impl: str, eps: float, precision: float, recall: float) -> None:
    """Sentence embeddings of prompts, whose groups come from the same text: removed rows against their groups."""
    x = np.load(shared_data / "vectors" / "p3_minilm_f16.npy")
    with gzip.open(shared_data / "vectors" / "p3_minilm_rows.jsonl.gz", "rt") as file:
        groups = np.array([json.loads(line)["group"] for line in file])
    if impl == "reference":
        x, groups = x[::8], groups[::8]
    found = semdedup(x, eps=eps, impl=impl)
    removed = np.flatnonzero(~found.kept)
    alike = groups[removed] == groups[found.duplicate_of[removed]]
    purity, found_again = alike.mean(), alike.sum() / (len(x) - len(np.unique(groups)))
    print(f"eps={eps} {impl}: {len(removed)} of {len(x)} removed, precision {purity:.4f}, recall {found_again:.4f}")
    wide = x.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    assert ((wide[removed] * wide[found.duplicate_of[removed]]).sum(1) > 1 - eps - 1e-6).all()
    if impl == "native":
        assert purity >= precision
        assert found_again >= recall


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
        ((GOOD,), {"budget": 1.5}, ValueError, "a share must be from 0 to 1"),
        ((GOOD,), {"budget": -1}, ValueError, "budget=-1"),
        ((GOOD,), {"budget": True}, TypeError, "whole number"),
        ((GOOD,), {"budget": "2"}, TypeError, "budget"),
        ((GOOD,), {"budget": 2, "keep": "components"}, ValueError, "takes eps"),
        ((GOOD,), {"eps": []}, ValueError, "eps is empty"),
        ((GOOD,), {"eps": [0.1, 3.0]}, ValueError, "eps=3.0"),
        ((GOOD,), {"eps": "0.1"}, TypeError, "eps must be"),
        ((GOOD[:, :0],), {"eps": 0.1}, ValueError, "without columns"),
        ((GOOD, [0, 0, 0]), {"eps": 0.1}, ValueError, r"labels must be \[N=4\]"),
        ((GOOD, [0.0, 0, 0, 0]), {"eps": 0.1}, TypeError, "float32"),
        ((GOOD,), {"eps": 0.1, "rank": [1, 2]}, ValueError, r"rank must be \[N=4\]"),
        ((GOOD,), {"eps": 0.1, "rank": [1, 2, float("nan"), 3]}, ValueError, r"rank\[2\] is NaN"),
        ((GOOD * np.array([[1], [np.nan], [1], [1]]),), {"eps": 0.1}, ValueError, "row 1"),
        ((GOOD.astype(int),), {"eps": 0.1}, TypeError, "int64"),
        ((GOOD,), {"eps": 0.1, "impl": "triton"}, RuntimeError, "only native, reference"),
    ],
)
def test_bad_arguments(arguments: tuple, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        semdedup(*arguments, **options)
