"""The CUDA kernels of k-means on the CPU (cuda_shim): the reference's bits, clean under sanitizers, every barrier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adaptinf_kernels.kmeans.ops import Fit
from torch import Tensor

from tests.kernels.cuda_drivers import Build, builder, run, unneeded_barriers
from tests.kernels.cuda_kmeans_cases import Case, case


@pytest.fixture(scope="module")
def build(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return builder(repository, tmp_path_factory.mktemp("shim"), "kmeans_driver.cpp", "kmeans/fit_cuda.cu")


def blobs(rows: int, columns: int, groups: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(groups, columns, generator=generator)
    x = centres[torch.arange(rows) % groups] + 0.3 * torch.randn(rows, columns, generator=generator)
    return x[torch.randperm(rows, generator=generator)].to(dtype)


def far_start(x: Tensor, near: int, far: int) -> Tensor:
    """``far`` of the clusters start where no row is, so that they are empty."""
    return torch.cat([x[:near].float(), torch.full((far, x.shape[1]), 1e4)])


def some_weights(rows: int) -> Tensor:
    """Every third is zero."""
    weights = torch.rand(rows, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return weights * (torch.arange(rows) % 3 > 0)


def near_ties(columns: int) -> Case:
    """Rows halfway between two clusters, but for less than what bfloat16, or even float32, can tell."""
    generator = torch.Generator().manual_seed(3)
    centroids = torch.randn(70, columns, generator=generator)
    pairs = torch.randint(70, (150, 2), generator=generator)
    middle = centroids[pairs].double().mean(1)
    towards = (centroids[pairs[:, 0]] - centroids[pairs[:, 1]]).double()
    offset = torch.tensor([0.0, 1e-3, -1e-3, 1e-6, -1e-6]).double()[torch.arange(150) % 5]
    return case((middle + offset[:, None] * towards).float(), 70, start=centroids, max_iter=1)


def overflowing(near: int) -> Case:
    """All but ``near`` clusters start so far away that their screens overflow float32."""
    x = blobs(100, 5, 3) * 1e-3
    far = torch.randn(4 - near, 5, generator=torch.Generator().manual_seed(4)) * 1e25
    return case(x, 4, start=torch.cat([x[:near], far]), max_iter=2, empty="keep")


def equally_far() -> Case:
    """The rows of the largest distance are two, and different."""
    x = torch.tensor([[1.0], [2.0], [-2.0], [-1.0], [0.0]])
    return case(x, 2, start=torch.tensor([[0.0], [100.0]]))


CASES = {
    "bfloat16": lambda: case(blobs(300, 64, 9, torch.bfloat16), 9),
    "strided float16": lambda: case(torch.as_strided(blobs(300, 40, 9, torch.float16), (290, 33), (40, 1)), 9),
    "expanded": lambda: case(blobs(1, 7, 1).expand(40, 7), 3),
    "one column": lambda: case(blobs(130, 1, 5), 6),
    "one row": lambda: case(blobs(1, 4, 1), 1),
    "spherical": lambda: case(blobs(150, 17, 4), 7, spherical=True),
    "spherical, a zero row, inertia": lambda: case(
        torch.cat([torch.zeros(1, 9), blobs(140, 9, 4)]), 3, spherical=True, by_inertia=True, tol=1e-3
    ),
    "two tiles of clusters": lambda: case(blobs(140, 70, 80), 66, max_iter=3),
    "rows that do not stay": lambda: case(blobs(131, 300, 70), 66, max_iter=2),
    "ragged": lambda: case(blobs(301, 12, 6), [3, 1, 0, 70, 5], rows=[50, 1, 0, 150, 100]),
    "all the same": lambda: case(blobs(60, 5, 3)[torch.arange(200) % 3 * 0], 12),
    "few distinct rows": lambda: case(blobs(60, 5, 3)[torch.arange(200) % 7], 12),
    "empty, farthest": lambda: case(x := blobs(300, 6, 4), 40, start=far_start(x, 4, 36)),
    "empty, split": lambda: case(x := blobs(300, 6, 4), 40, start=far_start(x, 4, 36), empty="split"),
    "empty, keep": lambda: case(x := blobs(300, 6, 4), 6, start=far_start(x, 4, 2), empty="keep"),
    "weights": lambda: case(
        x := blobs(200, 6, 4),
        7,
        weights=torch.rand(200).double() * (torch.arange(200) % 3 > 0),
        start=far_start(x, 4, 3),
    ),
    "inertia": lambda: case(blobs(200, 6, 4), 5, by_inertia=True, tol=1e-3, max_iter=10),
    "shift": lambda: case(torch.randn(200, 6, generator=torch.Generator().manual_seed(1)), 8, tol=0.5, max_iter=20),
    "noise": lambda: case(torch.randn(257, 31, generator=torch.Generator().manual_seed(2)), 33),
    "no iteration": lambda: case(blobs(100, 6, 4), 5, max_iter=0),
    "far from the origin": lambda: case(blobs(200, 6, 4) + 1e4, 5),
    "tiny": lambda: case(blobs(200, 6, 4) * 1e-30, 5),
    "huge": lambda: case(blobs(200, 6, 4) * 1e30, 5),
    "one huge row": lambda: case(torch.cat([blobs(150, 6, 4), torch.full((1, 6), 1e20)]), 5),
    "near ties": lambda: near_ties(20),
    "an overflowing screen": lambda: overflowing(3),
    "all screens overflow": lambda: overflowing(0),
    "two farthest rows": equally_far,
}


def check(case: Case, driver: Path, folder: Path, seed: int = 1) -> None:
    case.write(folder / "in")
    done = run(driver, folder, seed)
    assert done.returncode == 0, done.stderr[-3000:]
    found, distances, sums = case.read(folder / "out")
    expected = case.reference()
    for name, ours, theirs in zip(Fit._fields, found, expected, strict=True):
        assert torch.equal(ours, theirs), name
    for problem in range(len(case.cu_rows) - 1):
        state = case.accumulated(expected.centroids, problem)
        assert torch.equal(distances[case.cu_rows[problem] : case.cu_rows[problem + 1]], state.distances)
        assert torch.equal(sums[case.cu_clusters[problem] : case.cu_clusters[problem + 1]], state.sums)


@pytest.mark.parametrize("alone", [False, True], ids=["launches", "alone"])
@pytest.mark.parametrize("name", CASES)
def test_bits_of_the_reference_without_a_sanitizers_complaint(
    name: str, alone: bool, build: Build, tmp_path: Path
) -> None:
    check(replace(CASES[name](), alone=alone), build("address,undefined"), tmp_path)


@pytest.mark.parametrize("seed", range(2, 6))
def test_bits_do_not_depend_on_the_schedule(seed: int, build: Build, tmp_path: Path) -> None:
    check(CASES["ragged"](), build("address,undefined"), tmp_path, seed)


def test_fast_takes_the_screens_best(build: Build, tmp_path: Path) -> None:
    """Separated groups have no near ties, and equal clusters equal screens, so the labels are the exact ones."""
    x = blobs(200, 40, 5)
    far_apart = torch.stack([x[(x - x[0]).norm(dim=1).argsort()[200 * i // 5]] for i in range(5)])
    twice = case(x, 15, start=far_apart.repeat(3, 1), max_iter=0, empty="keep", fast=True)
    check(twice, build("address,undefined"), tmp_path)


def crowd() -> list[Case]:
    """What needs every barrier: refills with and without a row to take, more problems than a grid is high, several
    tiles of rows by one block, and more steps of chunks than shared memory holds."""
    same = torch.ones(30, 5)
    x = torch.cat([same, same, blobs(30, 5, 3, seed=1), blobs(30, 5, 3, seed=2)])
    start = torch.cat([far_start(part, 3, 2) for part in x.split(30)])
    launches = case(x, 5, rows=[30] * 4, start=start, max_iter=1, by_inertia=True)
    x = blobs(140, 70, 66)
    return [launches, replace(case(x, 66, start=far_start(x, 64, 2), max_iter=1), alone=True)]


@pytest.mark.slow
def test_no_race_and_no_barrier_too_many(build: Build, tmp_path: Path) -> None:
    """ThreadSanitizer, to which every CUDA thread is a thread, finds no race; without any one of the barriers it finds
    one, or the threads wait in vain, or the bits are others."""
    driver, needed, unneeded = build("thread"), set(), set()
    for fit in crowd():
        found = unneeded_barriers(
            lambda fit=fit: check(fit, driver, tmp_path),
            lambda site: run(driver, tmp_path, left_out=site),
            tmp_path / "out",
        )
        needed, unneeded = needed | found[0], unneeded | found[1]
    unneeded -= needed
    assert not unneeded
    assert len(needed) >= 8
