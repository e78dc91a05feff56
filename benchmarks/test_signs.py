"""Native against reference signs, in one run: ``python -m pytest benchmarks --benchmark-group-by=group``.

The correctness gate comes first: no time is taken of an implementation whose bits are wrong.
"""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import signs
from pytest_benchmark.fixture import BenchmarkFixture

ROWS, COLUMNS = range(64), range(16_384)


@pytest.mark.parametrize("impl", ["reference", "native"])
@pytest.mark.benchmark(group=f"signs {len(ROWS)} x {len(COLUMNS)}", warmup=True)
def test_signs(benchmark: BenchmarkFixture, impl: str) -> None:
    torch.set_num_threads(1)
    expected = signs(0, "weight", ROWS, COLUMNS, impl="reference")
    assert torch.equal(signs(0, "weight", ROWS, COLUMNS, impl=impl), expected)
    benchmark(signs, 0, "weight", ROWS, COLUMNS, impl=impl)
    benchmark.extra_info["entries"] = len(ROWS) * len(COLUMNS)
    benchmark.extra_info["bytes_written"] = len(ROWS) * len(COLUMNS)
