"""What CUDA finds of rows besides a fit (kmeans_rows_driver.cpp), on the CPU: the nearest clusters, distances, sums and
extremes with the reference's bits, clean under sanitizers, every barrier needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adaptinf_kernels.kmeans.arithmetic import scale

from tests.kernels.cuda_drivers import Build, builder, run, unneeded_barriers
from tests.kernels.cuda_kmeans_cases import Case, case
from tests.kernels.test_cuda_kmeans import CASES, blobs, far_start, near_ties

RESULTS = ("ids", "distances", "low", "high", "bad", "sums", "squares", "all distances", "limited distances")


@pytest.fixture(scope="module")
def build(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("shim")
    return builder(repository, folder, "kmeans_rows_driver.cpp", "kmeans/assign_cuda.cu", "kmeans/rows_cuda.cu")


def check(one: Case, driver: Path, folder: Path, seed: int = 1) -> None:
    largest = [
        float(part.double().abs().max()) if len(part) else 0.0 for part in one.x.split(one.cu_rows.diff().tolist())
    ]
    power = scale(one.cu_rows.diff(), torch.tensor(largest, dtype=torch.float64))
    one = replace(one, frame=one.frame._replace(sum_scale=power))  # of x itself: column sums come before the origin
    one.write(folder / "in")
    done = run(driver, folder, seed)
    assert done.returncode == 0, done.stderr[-3000:]
    found, expected = one.rows_read(folder / "out"), one.rows_expected()
    for name, ours, theirs in zip(RESULTS, found, expected, strict=False):
        assert torch.equal(ours, theirs), name  # to which -0 is 0


def least(one: Case) -> int:
    """The most clusters that every problem has."""
    return int(one.cu_clusters.diff()[one.cu_rows.diff() > 0].min())


@pytest.mark.parametrize("name", CASES)
def test_bits_of_the_reference_without_a_sanitizers_complaint(name: str, build: Build, tmp_path: Path) -> None:
    one = CASES[name]()
    for m in sorted({1, min(2, least(one)), least(one)}):
        check(replace(one, m=m), build("address,undefined"), tmp_path)


@pytest.mark.parametrize("m", [3, 16, 17, 70])
def test_more_than_there_are_groups(m: int, build: Build, tmp_path: Path) -> None:
    """Beyond 16 groups of clusters nothing is left out by screens; among ties the lower ids come first."""
    check(replace(near_ties(9), m=m), build("address,undefined"), tmp_path)
    equal = case(blobs(130, 9, 5), 80, start=blobs(5, 9, 5).repeat(16, 1), m=m)
    check(equal, build("address,undefined"), tmp_path)


def test_fast_is_for_the_nearest_alone(build: Build, tmp_path: Path) -> None:
    x = blobs(140, 40, 5)
    apart = torch.stack([x[(x - x[0]).norm(dim=1).argsort()[140 * i // 5]] for i in range(5)])
    for m in (1, 2):
        check(case(x, 5, start=apart, fast=True, m=m), build("address,undefined"), tmp_path)


def test_negative_zeros_are_zeros(build: Build, tmp_path: Path) -> None:
    """Whichever of the warps that have -0, -1 or 1 comes first."""
    strip = torch.tensor([[-0.0, -0.0], [-1.0, 1.0], [-0.0, -0.0], [-0.5, 0.5]]).repeat_interleave(32, 0)
    for seed in range(1, 5):
        check(case(strip, 2), build("address,undefined"), tmp_path, seed)


@pytest.mark.parametrize("seed", range(2, 4))
def test_bits_do_not_depend_on_the_schedule(seed: int, build: Build, tmp_path: Path) -> None:
    check(CASES["ragged"](), build("address,undefined"), tmp_path, seed)
    check(replace(CASES["noise"](), m=5), build("address,undefined"), tmp_path, seed)


@pytest.mark.slow
def test_no_race_and_no_barrier_too_many(build: Build, tmp_path: Path) -> None:
    """As ``test_cuda_kmeans.py``; what needs the barriers: unit rows in shared memory, several chunks of columns, and
    more of them than shared memory holds. Blocks that take several tiles or problems are left to that test."""
    x = blobs(70, 70, 66)
    wide, ragged = blobs(40, 270, 40), blobs(140, 5, 9)
    crowd = [
        case(x, 40, start=far_start(x, 38, 2), m=2, spherical=False),
        case(wide, 20, m=1, spherical=True),
        case(ragged, 4, rows=[35] * 4, m=2),
    ]
    driver, needed, unneeded = build("thread"), set(), set()
    for one in crowd:
        found = unneeded_barriers(
            lambda one=one: check(one, driver, tmp_path),
            lambda site: run(driver, tmp_path, left_out=site),
            tmp_path / "out",
        )
        needed, unneeded = needed | found[0], unneeded | found[1]
    assert all("/common/" in site for site in unneeded - needed)
    assert len(needed) >= 5
