"""Rows in chunks, in a memory map, on several ranks: the bits of rows in memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from adaptinf_kernels import KMeansResult, kmeans
from adaptinf_kernels.kmeans import start, stream

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(700, 13)) * 2 + RNG.integers(0, 4, size=(700, 1)) * 3 + 50).astype(np.float32)
WEIGHTS = np.where(RNG.random(700) < 0.1, 0, RNG.exponential(size=700))
CUTS = (0, 100, 100, 467, 700)
FIELDS = ("labels", "centroids", "sizes", "weights", "radii", "origin")


class Cut:
    """Rows in chunks that can be iterated again; counts the passes."""

    def __init__(self, x: np.ndarray, cuts: Sequence[int] = CUTS) -> None:
        self.x, self.cuts, self.passes = x, cuts, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.passes += 1
        return (self.x[a:b] for a, b in zip(self.cuts[:-1], self.cuts[1:], strict=True))


def assert_same_bits(a: KMeansResult, b: KMeansResult) -> None:
    for field in FIELDS:
        assert np.asarray(getattr(a, field)).tobytes() == np.asarray(getattr(b, field)).tobytes(), field
    assert (a.inertia, a.n_iter, a.changed) == (b.inertia, b.n_iter, b.changed)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["even", "weighted"])
@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_chunks_give_the_same_bits(metric: str, init: str, weights: np.ndarray | None, impl: str) -> None:
    options = {"metric": metric, "init": init, "sample_weight": weights, "seed": 3, "impl": impl}
    whole, cut = kmeans(X, 7, **options), Cut(X)
    assert_same_bits(whole, kmeans(cut, 7, **options))
    assert whole.n_iter + 3 <= cut.passes <= whole.n_iter + 16


@pytest.mark.parametrize("stop", ["labels", "shift", "inertia"])
@pytest.mark.parametrize("empty", ["farthest", "split", "keep"])
def test_empty_clusters_and_ways_to_stop(empty: str, stop: str, impl: str) -> None:
    first = X[:7].astype(np.float64)
    first[[1, 2, 5]] += 1e4
    options = {"init": first, "empty": empty, "stop": stop, "tol": 1e-3, "sample_weight": WEIGHTS, "impl": impl}
    whole = kmeans(X, 7, **options)
    assert_same_bits(whole, kmeans(Cut(X), 7, **options))
    assert (whole.sizes > 0).all() == (empty != "keep")


def test_half_precision_rows(impl: str) -> None:
    x = torch.from_numpy(X).bfloat16()
    found = kmeans([x[:300], x[300:]], 5, impl=impl)
    assert_same_bits(kmeans(x, 5, impl=impl), found)
    assert found.centroids.dtype == torch.float32


def test_a_sample_is_drawn_for_plus_plus(monkeypatch: pytest.MonkeyPatch, impl: str) -> None:
    every = kmeans(X, 7, seed=2, impl=impl)
    monkeypatch.setattr(start, "SAMPLE", 10)
    whole = kmeans(X, 7, seed=2, impl=impl)
    assert_same_bits(whole, kmeans(Cut(X), 7, seed=2, impl=impl))
    assert whole.centroids.tobytes() != every.centroids.tobytes()
    assert whole.inertia < 1.3 * every.inertia


def test_a_memory_map_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(stream, "CHUNK_BYTES", 64 * X.strides[0])
    longest = []
    monkeypatch.setattr(
        stream, "as_tensor", lambda what, rows: (longest.append(len(rows)), torch.from_numpy(np.asarray(rows)))[1]
    )
    assert_same_bits(kmeans(X, 5), kmeans(mapped, 5))
    assert max(longest) == 64


def test_rows_that_are_not_finite_are_left_out_of_chunks() -> None:
    x = X.copy()
    x[5], x[120, 3], x[699, 0] = np.nan, np.inf, -np.inf
    whole, cut = (kmeans(source, 4, non_finite="ignore", sample_weight=WEIGHTS) for source in (x, Cut(x)))
    assert_same_bits(whole, cut)
    good = np.isfinite(x).all(1)
    alone = kmeans(x[good], 4, sample_weight=WEIGHTS[good])
    assert (whole.labels[~good] == -1).all()
    assert (whole.labels[good] == alone.labels).all()
    assert whole.centroids.tobytes() == alone.centroids.tobytes()
    with pytest.raises(ValueError, match="row 5; non_finite='ignore'"):
        kmeans(Cut(x), 4)


class Shrinking(Cut):
    def __iter__(self) -> Iterator[np.ndarray]:
        chunks = super().__iter__()
        return chunks if self.passes < 3 else (chunk[1:] for chunk in chunks)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (iter([X]), {}, TypeError, "read once"),
        (Shrinking(X), {}, ValueError, "chunk 0 has 99 rows now"),
        ([X, X[:, :3]], {}, ValueError, "chunk 1 of x is torch.float32 with 3 columns"),
        ([X, X.astype(np.float64)], {}, ValueError, "chunk 1 of x is torch.float64"),
        ([X[0]], {}, ValueError, r"chunk 0 of x must be \[n, d\], not \[13\]"),
        ([X.astype(int)], {}, TypeError, "chunk 0 of x must be floating point"),
        ([], {}, ValueError, "no chunks"),
        ([X[:2]], {}, ValueError, "k=3 clusters of N=2 rows"),
        ([X], {"k": [3]}, ValueError, "one problem"),
        ([X], {"k": 0}, ValueError, "k=0"),
        ([X], {"cu_rows": np.array([0, 700])}, ValueError, "one problem"),
        ([X], {"init": X[:2]}, ValueError, r"\[3, 13\], not \[2, 13\]"),
        ([X], {"init": X[:3, :4]}, ValueError, r"\[3, 13\], not \[3, 4\]"),
        ([X], {"init": "best"}, ValueError, "init='best'"),
        ([X], {"sample_weight": WEIGHTS[1:]}, ValueError, "699 numbers for 700 rows"),
        ([X], {"sample_weight": 0 * WEIGHTS}, ValueError, "zero for all rows"),
        (3, {}, TypeError, "int"),
    ],
)
def test_bad_chunks(x: object, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kmeans(x, **{"k": 3, **options})


RANK = """
import sys
import numpy as np, torch, torch.distributed as dist
from adaptinf_kernels import kmeans
from tests.kernels.kmeans.test_kmeans_chunks import FIELDS, WEIGHTS, X
rank, size, port, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
bounds = [0, 150, 150, 700] if size == 3 else [0, 333, 700]
mine = slice(bounds[rank], bounds[rank + 1])
first = X[:6].copy()
first[2:4] += 1e4
saved = {}
for name, options in {
    "k-means++": {"seed": 1, "sample_weight": WEIGHTS[mine]},
    "k-means||": {"init": "k-means||", "metric": "cosine"},
    "random": {"init": "random", "stop": "inertia", "tol": 1e-3},
    "farthest": {"init": first},
    "split": {"init": first, "empty": "split", "sample_weight": WEIGHTS[mine]},
}.items():
    found = kmeans(X[mine], 6, group=dist.group.WORLD, **options)
    saved |= {f"{name} {field}": getattr(found, field) for field in (*FIELDS, "inertia", "n_iter", "changed")}
bad = X[mine].copy()
if rank == size - 1:
    bad[7] = np.nan
try:
    kmeans(bad, 6, group=dist.group.WORLD)
except ValueError as error:
    saved["message"] = str(error)
np.savez(out, **saved)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_give_the_bits_of_one(size: int, tmp_path: Path, repository: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    paths = os.pathsep.join([str(repository), str(repository / "kernels")])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(size), port, str(tmp_path / f"{rank}.npz")],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    found = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(size)]
    first = X[:6].copy()
    first[2:4] += 1e4
    for name, options in {
        "k-means++": {"seed": 1, "sample_weight": WEIGHTS},
        "k-means||": {"init": "k-means||", "metric": "cosine"},
        "random": {"init": "random", "stop": "inertia", "tol": 1e-3},
        "farthest": {"init": first},
        "split": {"init": first, "empty": "split", "sample_weight": WEIGHTS},
    }.items():
        alone = kmeans(X, 6, **options)
        labels = np.concatenate([part[f"{name} labels"] for part in found])
        assert labels.tobytes() == alone.labels.tobytes(), name
        for field in (*FIELDS[1:], "inertia", "n_iter", "changed"):
            for part in found:
                assert part[f"{name} {field}"].tobytes() == np.asarray(getattr(alone, field)).tobytes(), (name, field)
    row = 157 if size == 3 else 340
    assert all(f"the first is row {row};" in str(part["message"]) for part in found)
