"""What must hold whatever the data: brute force, permutations, batches, steps that change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from adaptinf_kernels import kmeans
from adaptinf_kernels.kmeans.plus_plus import pick
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.kmeans.test_kmeans_chunks import assert_same_bits

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def rows(n: int, d: int, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * 2 + 3 * rng.integers(0, 3, size=(n, 1)) + offset).astype(np.float32)


def gaps(x: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By how much the squared distance to the label's centroid is above the least one, in float64."""
    squared = ((x[:, None].astype(np.float64) - centroids[None].astype(np.float64)) ** 2).sum(2)
    return squared[np.arange(len(x)), labels] - squared.min(1)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_labels_are_the_float64_argmin(dtype: torch.dtype, offset: float, impl: str) -> None:
    x = torch.from_numpy(rows(500, 37, offset=offset)).to(dtype)
    found = kmeans(x, 20, seed=1, impl=impl)
    wide = x.double().numpy()
    bound = 64 * 37 * 2.0**-53 * (np.abs(wide - wide.mean(0)).max() ** 2 + np.abs(wide).max() ** 2)
    assert gaps(wide, found.centroids.numpy(), found.labels.numpy()).max() <= bound
    assert bound < 1e-4


def test_what_is_near_a_tie_is_decided_in_float64(impl: str) -> None:
    """Rows on both sides of the middle between two centroids, nearer to it than any low-precision screen can see."""
    rng = np.random.default_rng(0)
    d, n = 64, 400
    centroids = rng.normal(size=(2, d))
    middle, across = centroids.mean(0), centroids[1] - centroids[0]
    side = rng.choice([-1, 1], size=n)
    x = middle + rng.normal(size=(n, d)) * 3
    x -= ((x - middle) @ across / (across @ across))[:, None] * across
    x += (side * 10.0 ** rng.uniform(-11, -4, size=n))[:, None] * across
    found = kmeans(x, 2, init=centroids, max_iter=0, impl=impl)
    assert (found.labels == (side > 0)).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_order_of_rows_changes_no_bit(metric: str, impl: str) -> None:
    x, weights = rows(300, 9), np.random.default_rng(1).random(300)
    order = np.random.default_rng(2).permutation(300)
    first = x[:8].copy()
    first[3] += 1e3
    one = kmeans(x, 8, init=first, metric=metric, sample_weight=weights, impl=impl)
    two = kmeans(x[order], 8, init=first, metric=metric, sample_weight=weights[order], impl=impl)
    assert (one.labels[order] == two.labels).all()
    assert_same_bits(one, type(one)(**{**two.__dict__, "labels": one.labels}))


def test_the_order_of_centroids_only_renumbers(impl: str) -> None:
    x, order = rows(300, 9), np.random.default_rng(2).permutation(8)
    one, two = (kmeans(x, 8, init=first, tol=0, impl=impl) for first in (x[:8], x[:8][order]))
    assert (order[two.labels] == one.labels).all()
    assert one.centroids[order].tobytes() == two.centroids.tobytes()
    assert one.inertia == two.inertia


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
def test_a_batch_is_a_loop(init: str, metric: str, impl: str) -> None:
    sizes, counts = [50, 1, 333, 8, 64], [3, 1, 20, 8, 5]
    parts = [rows(n, 11, seed=n) for n in sizes]
    weights = [np.random.default_rng(n).exponential(size=n) for n in sizes]
    cu_rows = np.cumsum([0, *sizes])
    options = {"init": init, "metric": metric, "seed": 4, "impl": impl}
    batch = kmeans(np.concatenate(parts), counts, cu_rows=cu_rows, sample_weight=np.concatenate(weights), **options)
    assert batch.cu_clusters.tolist() == [0, 3, 4, 24, 32, 37]
    for b, (x, w, k) in enumerate(zip(parts, weights, counts, strict=True)):
        one = kmeans(x, k, sample_weight=w, **options)
        at, of = slice(cu_rows[b], cu_rows[b + 1]), slice(batch.cu_clusters[b], batch.cu_clusters[b + 1])
        assert batch.labels[at].tobytes() == one.labels.tobytes()
        for field in ("centroids", "sizes", "weights", "radii"):
            assert getattr(batch, field)[of].tobytes() == getattr(one, field).tobytes(), field
        assert batch.origin[b].tobytes() == one.origin.tobytes()
        assert (batch.inertia[b], batch.n_iter[b], batch.changed[b]) == (one.inertia, one.n_iter, one.changed)
    assert (batch.predict(np.concatenate(parts), cu_rows=cu_rows, impl=impl) == batch.labels).all()


def test_a_stacked_batch_is_a_loop(impl: str) -> None:
    x = torch.from_numpy(rows(240, 5)).view(4, 60, 5)
    first = x[:, 10:17]
    batch = kmeans(x, 7, init=first, impl=impl)
    assert batch.labels.shape == (4, 60)
    assert batch.centroids.shape == (4, 7, 5)
    assert batch.sizes.shape == batch.radii.shape == (4, 7)
    for b in range(4):
        one = kmeans(x[b], 7, init=first[b], impl=impl)
        assert torch.equal(batch.labels[b], one.labels)
        assert torch.equal(batch.centroids[b], one.centroids)
        assert (float(batch.inertia[b]), int(batch.n_iter[b])) == (one.inertia, one.n_iter)
    assert torch.equal(batch.predict(x, impl=impl), batch.labels)
    ids, distances = batch.top_m(x, 3, impl=impl)
    assert ids.shape == distances.shape == (4, 60, 3)
    assert torch.equal(ids[..., 0], batch.labels)


def test_a_batch_of_nothing() -> None:
    found = kmeans(np.zeros((0, 5, 3), np.float32), 2)
    assert found.labels.shape == (0, 5)
    assert found.centroids.shape == (0, 2, 3)
    assert found.inertia.shape == found.n_iter.shape == (0,)
    assert kmeans(np.zeros((0, 3), np.float32), [], cu_rows=np.array([0])).centroids.shape == (0, 3)


def test_integer_weights_are_copies(impl: str) -> None:
    x, counts = rows(200, 6), np.random.default_rng(0).integers(0, 4, size=200)
    first = x[counts > 0][:5]
    weighted = kmeans(x, 5, init=first, sample_weight=counts.astype(np.float64), tol=0, impl=impl)
    copies = kmeans(np.repeat(x, counts, axis=0), 5, init=first, tol=0, impl=impl)
    assert (np.repeat(weighted.labels, counts) == copies.labels).all()
    np.testing.assert_allclose(weighted.centroids, copies.centroids, rtol=1e-5, atol=1e-6)
    assert weighted.inertia == pytest.approx(copies.inertia, rel=1e-6)
    np.testing.assert_array_equal(weighted.weights, copies.sizes)


@pytest.mark.parametrize("power", [2.0**-100, 2.0**7])
def test_the_unit_of_weights_does_not_matter(power: float, impl: str) -> None:
    x, weights = rows(200, 6), np.random.default_rng(0).random(200)
    one, two = (kmeans(x, 5, sample_weight=w, impl=impl) for w in (weights, weights * power))
    assert one.centroids.tobytes() == two.centroids.tobytes()
    assert two.inertia == one.inertia * power


def test_even_weights_are_none(impl: str) -> None:
    x = rows(200, 6)
    assert_same_bits(kmeans(x, 5, impl=impl), kmeans(x, 5, sample_weight=np.ones(200), impl=impl))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_fixed_point_stays(metric: str, impl: str) -> None:
    x = rows(400, 6)
    found = kmeans(x, 9, tol=0, max_iter=300, metric=metric, impl=impl)
    assert found.changed == 0
    again = kmeans(x, 9, init=found.centroids, tol=0, metric=metric, impl=impl)
    assert again.n_iter == 1
    assert again.changed == 0
    assert again.labels.tobytes() == found.labels.tobytes()
    assert again.centroids.tobytes() == found.centroids.tobytes()
    assert again.inertia == found.inertia


def test_distinct_rows_are_drawn_while_there_are_any(impl: str) -> None:
    x = np.repeat(rows(12, 3), [90, 1, 1, 1, 1, 80, 1, 1, 1, 1, 1, 1], axis=0)
    for init in ("random", "k-means++", "k-means||"):
        for metric in ("euclidean", "cosine"):
            for seed in range(4):
                found = kmeans(x, 12, init=init, max_iter=0, metric=metric, seed=seed, impl=impl)
                assert (found.sizes > 0).all(), (init, metric, seed)


def test_random_draws_every_row_alike() -> None:
    x = np.arange(10.0)[:, None]
    drawn = np.concatenate([kmeans(x, 3, init="random", max_iter=0, seed=s).centroids[:, 0] for s in range(200)])
    counts = np.bincount(drawn.astype(int), minlength=10)
    assert np.abs(counts - 60).max() < 5 * np.sqrt(60 * 0.7)


def test_plus_plus_draws_in_proportion_to_weight_and_distance() -> None:
    """The first row by weight; with k = 2 the better of two others, each drawn by weight times squared distance."""
    x, weights = np.array([[0.0], [1.0], [3.0]]), np.array([1.0, 2.0, 1.0])
    firsts, pairs = np.zeros(3), 0
    for seed in range(500):
        found = kmeans(x, 2, sample_weight=weights, max_iter=0, seed=seed)
        first, second = found.centroids[:, 0]
        firsts[int(np.flatnonzero(x[:, 0] == first)[0])] += 1
        pairs += first == 1 and second == 3
    np.testing.assert_allclose(firsts / 500, weights / 4, atol=5 * 0.5 / np.sqrt(500))
    # from 1: row 0 has 1 * 1, row 3 has 1 * 4; 3 leaves the lesser potential, so it loses only if drawn neither time
    assert pairs / firsts[1] == pytest.approx(1 - 0.2**2, abs=5 * 0.2 / np.sqrt(firsts[1]))


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_good_starts_find_separate_groups(init: str, impl: str) -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(30, 8)) * 20
    x = (centers[np.arange(3000) % 30] + rng.normal(size=(3000, 8))).astype(np.float32)
    ideal = ((x - np.stack([x[i::30].mean(0) for i in range(30)])[np.arange(3000) % 30]) ** 2).sum()
    best = min(kmeans(x, 30, init=init, seed=seed, impl=impl).inertia for seed in range(3))
    assert best <= 1.01 * ideal


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 6), st.booleans(), st.data())
def test_top_m_is_the_order_of_all_distances(n: int, d: int, k: int, spherical: bool, data: st.DataObject) -> None:
    """Entries from a few integers: many ties, which go to the lower id."""
    values = data.draw(st.lists(st.integers(-2, 2), min_size=(n + k) * d, max_size=(n + k) * d))
    x, centroids = np.split(np.array(values, np.float64).reshape(n + k, d), [n])
    if n < k:
        x = np.concatenate([x, centroids])
    metric = "cosine" if spherical else "euclidean"
    found = kmeans(x, k, init=centroids, max_iter=0, metric=metric)
    m = data.draw(st.integers(1, k))
    ids, distances = found.top_m(x, m)
    every = found.transform(x)
    assert (np.take_along_axis(every, ids, 1) == distances).all()
    if not spherical:
        exact = ((x[:, None] - centroids[None]) ** 2).sum(2)
        np.testing.assert_allclose(every**2, exact, atol=1e-12)
        near = np.sort(exact, axis=1)[:, :m]
        np.testing.assert_allclose(np.take_along_axis(exact, ids, 1), near, atol=1e-12)
    assert (ids[:, 0] == found.labels).all()
    assert all(len(set(row)) == m for row in ids.tolist())


def test_rows_anywhere_in_memory(impl: str) -> None:
    """Transposed, every second, reversed by NumPy, repeated."""
    x = torch.from_numpy(rows(60, 6))
    first = x[:4]
    expected = kmeans(x, 4, init=first, impl=impl)
    wide = torch.zeros(60, 14)
    wide[:, 1:13:2] = x
    for other in (x.T.contiguous().T, wide[:, 1:13:2], x.flip(0).numpy()[::-1]):
        assert np.asarray(kmeans(other, 4, init=first, impl=impl).labels).tobytes() == expected.labels.numpy().tobytes()
    same = kmeans(x[:1].expand(60, 6), 1, impl=impl)
    assert same.inertia == 0
    assert torch.equal(same.centroids, x[:1])


def test_offsets_beyond_31_bits(impl: str, tmp_path: Path) -> None:
    """A sparse file: 40 rows 2^26 elements apart, 2.6e9 elements from the first to the last."""
    stride = 2**26
    storage = torch.from_file(str(tmp_path / "x"), shared=True, size=39 * stride + 3, dtype=torch.float32)
    far = storage.as_strided((40, 3), (stride, 1))
    far.copy_(torch.from_numpy(rows(40, 3)))
    near = far.contiguous()
    assert_same_bits(kmeans(near, 4, impl=impl), kmeans(far, 4, impl=impl))


def test_threads_change_no_bit(impl: str) -> None:
    x, before = rows(600, 33), torch.get_num_threads()
    try:
        one, two = (torch.set_num_threads(n) or kmeans(x, 12, seed=2, max_iter=6, impl=impl) for n in (1, 2))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(one, two)


def test_draws_are_in_proportion_to_integers() -> None:
    words = np.random.default_rng(0).integers(2**63, size=2000, dtype=np.uint64).tolist()
    picked = pick(torch.tensor([0, 1, 0, 3]), words)
    counts = torch.bincount(picked, minlength=4).tolist()
    assert counts[0] == counts[2] == 0
    assert counts[3] == pytest.approx(1500, abs=5 * np.sqrt(2000 * 0.75 * 0.25))


def test_copies_make_no_new_cluster(impl: str) -> None:
    """Where the mean of copies differs from them in the last bit, a copy that left would draw the others after it."""
    off = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        distinct = rng.normal(size=(4, 3)) * 10.0 ** rng.uniform(-6, 0, size=(4, 1))
        x = distinct[rng.permutation(np.repeat(np.arange(4), [3, 7, 11, 40]))]
        first = np.concatenate([distinct * 1.001, np.full((4, 3), 1e3)])
        found = kmeans(x, 8, init=first, tol=0, impl=impl)
        assert (found.sizes > 0).sum() == 4
        assert found.n_iter <= 3
        off = max(off, found.radii.max())
    assert off > 0


def test_a_cluster_gives_all_rows_but_one(impl: str) -> None:
    """Rows 0 and 1 may leave their cluster, one of them only; the copies of 10 may not leave theirs."""
    x = np.array([[0.0], [1.0], [10.0], [10.0], [10.0]])
    first = np.array([[0.5], [10.0], [1e6], [1e6], [1e6]])
    for empty in ("farthest", "split"):
        found = kmeans(x, 5, init=first, max_iter=1, empty=empty, impl=impl)
        assert found.sizes.tolist() == [1, 3, 1, 0, 0]
        assert found.centroids[:3, 0].tolist() == [1.0, 10.0, 0.0]
