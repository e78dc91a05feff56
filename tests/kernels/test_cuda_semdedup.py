"""De-duplication's CUDA kernels on the CPU (cuda_shim): the reference's bits, clean under sanitizers, every barrier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.cuda_drivers import Build, builder, run, unneeded_barriers
from tests.kernels.cuda_semdedup_cases import KEEP, Case, case


@pytest.fixture(scope="module")
def build(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return builder(repository, tmp_path_factory.mktemp("shim"), "semdedup_driver.cpp", "semdedup/dedup_cuda.cu")


def blobs(rows: int, columns: int, groups: int, noise: float = 0.3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(groups, columns, generator=generator)
    which = torch.randint(groups, (rows,), generator=generator)
    return (centres[which] + noise * torch.randn(rows, columns, generator=generator)).to(dtype)


def steps_of(step: float) -> Tensor:
    """Rows that differ by plus or minus ``step`` in each column: similarities that bfloat16 and float32 cannot tell."""
    return blobs(260, 20, 3, 0) + step * blobs(260, 20, 260, 0).sign()


CASES = {
    "one row": lambda: case(blobs(1, 4, 1)),
    "one column": lambda: case(blobs(130, 1, 5)),
    "bfloat16": lambda: case(blobs(150, 64, 9, dtype=torch.bfloat16)),
    "strided float16": lambda: case(torch.as_strided(blobs(170, 40, 9, dtype=torch.float16), (160, 33), (40, 1))),
    "float64, tiny": lambda: case(blobs(150, 9, 6, dtype=torch.float64) * 1e-310),
    "float64, huge": lambda: case(blobs(150, 9, 6, dtype=torch.float64) * 1e307),
    "expanded": lambda: case(blobs(1, 9, 1).expand(140, 9)),
    "copies": lambda: case(blobs(60, 9, 5)[torch.arange(200) % 37]),
    "copies but for their length": lambda: case(
        blobs(30, 9, 5).repeat(5, 1) * 2.0 ** (torch.arange(150) % 60)[:, None]
    ),
    "zero rows, negative zeros": lambda: case(torch.cat([torch.zeros(2, 9), -torch.zeros(2, 9), blobs(60, 9, 5)])),
    "ragged": lambda: case(blobs(300, 12, 9), [0, 100, 1, 130, 0, 2, 67]),
    "rows that do not stay": lambda: case(blobs(131, 300, 6)),
    "opposite rows": lambda: case(torch.cat([blobs(70, 5, 70), -blobs(70, 5, 70)])),
    "one-hot rows": lambda: case(torch.eye(135)[:, :70]),
    "near ties of bfloat16": lambda: case(steps_of(1e-2)),
    "near ties of float32": lambda: case(steps_of(1e-4)),
    "near ties at 1": lambda: case(steps_of(3e-6)),
}


def equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def check(one: Case, driver: Path, folder: Path, seed: int = 1) -> None:
    one.write(folder / "in")
    done = run(driver, folder, seed)
    assert done.returncode == 0, done.stderr[-3000:]
    equal(one.read(folder / "out"), one.expected())


def typical_threshold(one: Case) -> float:
    """One of the similarities, so that pairs are at the threshold and at either side of it."""
    similarity = replace(one, keep="reference", thresholds=(2.0,)).expected()[2][0]
    known = similarity[~similarity.isnan()].sort().values
    return float(known[len(known) // 2]) if len(known) else 0.5


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("name", CASES)
def test_bits_of_the_reference_without_a_sanitizers_complaint(
    name: str, keep: str, build: Build, tmp_path: Path
) -> None:
    """By a block for each cluster, and by launches whose blocks share a cluster."""
    one = replace(CASES[name](), keep=keep)
    one = replace(one, thresholds=(typical_threshold(one), 0.9, 1.0))
    for options in ({"alone_rows": 2048}, {"alone_rows": 0, "slice_tiles": 1}):
        check(replace(one, **options), build("address,undefined"), tmp_path)


@pytest.mark.parametrize("keep", KEEP)
def test_bits_do_not_depend_on_the_schedule(keep: str, build: Build, tmp_path: Path) -> None:
    for seed in range(2, 5):
        one = replace(CASES["copies"](), keep=keep, alone_rows=2, slice_tiles=1)
        check(one, build("address,undefined"), tmp_path, seed)


@pytest.mark.parametrize("keep", KEEP)
def test_large_and_small_clusters_together(keep: str, build: Build, tmp_path: Path) -> None:
    one = case(blobs(420, 9, 9), [200, 3, 150, 67], keep=keep, alone_rows=100, slice_tiles=2)
    check(one, build("address,undefined"), tmp_path)


def test_more_clusters_than_a_grid_is_high(build: Build, tmp_path: Path) -> None:
    check(case(blobs(60, 5, 7), 20, keep="greedy"), build("address,undefined"), tmp_path)


@pytest.mark.parametrize("row", [-1, 50, 2**40])
def test_rows_that_are_none_are_found(row: int, build: Build, tmp_path: Path) -> None:
    """In place 20 of a cluster by itself, and of one that blocks share."""
    for alone_rows in (2048, 0):
        one = case(blobs(50, 5, 7), alone_rows=alone_rows)
        one.rows[20] = row
        one.write(tmp_path / "in")
        done = run(build("address,undefined"), tmp_path)
        assert done.returncode == 3
        assert "rows: must be rows of x" in done.stderr


def crowd() -> list[Case]:
    """What needs every barrier: more clusters than a grid is high, several blocks of rows for greedy, more chunks of
    columns than shared memory holds."""
    return [
        case(blobs(280, 5, 9), 4, alone_rows=0, keep="greedy"),
        case(blobs(140, 5, 9), keep="greedy"),
        case(blobs(140, 260, 9), alone_rows=0, slice_tiles=1),
        case(steps_of(1e-4)[:200], 3, keep="components"),
    ]


@pytest.mark.slow
def test_no_race_and_no_barrier_too_many(build: Build, tmp_path: Path) -> None:
    """ThreadSanitizer, to which every CUDA thread is a thread, finds no race; without any one of the barriers it finds
    one, or the threads wait in vain, or the bits are others."""
    driver, needed, unneeded = build("thread"), set(), set()
    for one in crowd():
        found = unneeded_barriers(
            lambda one=one: check(one, driver, tmp_path),
            lambda site: run(driver, tmp_path, left_out=site),
            tmp_path / "out",
        )
        needed, unneeded = needed | found[0], unneeded | found[1]
    # launches wait between two clusters for phases that begin to use shared memory at once; k-means has one
    assert all("cuda_team.cuh" in site for site in unneeded - needed)
    assert len(needed) >= 8
