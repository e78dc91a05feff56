"""Loops shared by threads (``csrc/common/parallel.h``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.sanitizers import run_sanitized


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_loops_in_regions(repository: Path, tmp_path: Path, sanitizers: str) -> None:
    """Every task is done once, on as many threads as were asked for, also in a region, where loops are many and short,
    lie in tasks of others, or end with an exception."""
    done = run_sanitized(repository, tmp_path, "native_parallel_driver.cpp", ["common/parallel.cpp"], sanitizers)
    assert done >= 3 * (3 * 2 + 2) * 40 * 3 * 113
