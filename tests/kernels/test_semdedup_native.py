"""Native de-duplication: the same bits on every instruction set and number of threads, near ties, hostile numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from adaptinf_kernels import build_info, semdedup
from adaptinf_kernels._native import native
from adaptinf_kernels.semdedup import native as implementation
from adaptinf_kernels.semdedup.api import Keep

from tests.kernels.native_hostile import F32, F64, I8, I64, outcomes_of
from tests.kernels.sanitizers import run_sanitized

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)

LEVELS = [(level, True) for level in build_info()["cpu"]["levels"]] + [("", False)]


def everything(x: torch.Tensor, labels: torch.Tensor | None = None, eps: float = 0.05, **options: object) -> list:
    found = [semdedup(x, labels, eps=[eps, 0.4], keep=keep, **options) for keep in get_args(Keep)]
    found.append(semdedup(x, labels, budget=len(x) // 3, **options))
    return [part for one in found for part in (one.kept, one.duplicate_of, one.max_similarity)]


def equal(one: list, other: list) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("level", "brain"), LEVELS)
@pytest.mark.parametrize(("n", "d"), [(777, 65), (300, 512)])
def test_every_instruction_set_agrees(level: str, brain: bool, n: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).cumsum(0)
    labels = torch.arange(n) % 2
    expected = everything(x, labels, impl="reference")
    monkeypatch.setattr(implementation, "CPU_LEVEL", level)
    monkeypatch.setattr(implementation, "BRAIN", brain)
    equal(everything(x, labels, impl="native"), expected)


def test_threads_change_nothing() -> None:
    """One large cluster, whose blocks are shared, and many small ones."""
    x = torch.randn(2600, 24, generator=torch.Generator().manual_seed(0)).cumsum(0)
    for labels in (None, torch.arange(2600) // 9):
        found = []
        before = torch.get_num_threads()
        try:
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                found.append(everything(x, labels, impl="native"))
        finally:
            torch.set_num_threads(before)
        equal(found[0], found[1])
        equal(found[0], found[2])


def test_blocks_of_greedy_grow_and_shrink() -> None:
    """Copies with noise, of which one stays, before and after rows that all stay, and copies of those."""
    generator = torch.Generator().manual_seed(5)

    def noisy(count: int) -> torch.Tensor:
        return torch.ones(12) + 0.01 * torch.randn(count, 12, generator=generator)

    apart = torch.randn(700, 12, generator=generator)
    x = torch.cat([noisy(1800), apart, noisy(900), apart.flip(0) + 0.01, apart[:50]])
    threads = torch.get_num_threads()
    expected = semdedup(x, eps=0.02, impl="reference")
    assert 300 < expected.kept.sum() < 720
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found = semdedup(x, eps=0.02, impl="native")
            equal(
                [found.kept, found.duplicate_of, found.max_similarity],
                [expected.kept, expected.duplicate_of, expected.max_similarity],
            )
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("level", "brain"), LEVELS)
@pytest.mark.parametrize("step", [1e-2, 1e-4, 3e-6])
def test_near_ties_are_decided_exactly(step: float, level: str, brain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Similarities as near each other as bfloat16 and float32 can tell, and nearer, and a threshold among them."""
    monkeypatch.setattr(implementation, "CPU_LEVEL", level)
    monkeypatch.setattr(implementation, "BRAIN", brain)
    generator = torch.Generator().manual_seed(3)
    centers = torch.randn(3, 40, generator=generator)
    x = centers[torch.arange(400) % 3] + step * torch.randn(400, 40, generator=generator).sign()
    similarity = semdedup(x, eps=0.0, keep="reference", impl="reference").max_similarity
    eps = 1 - float(similarity[1:].median())
    equal(everything(x, eps=eps, impl="native"), everything(x, eps=eps, impl="reference"))


def test_rows_anywhere_in_memory(tmp_path: Path) -> None:
    """Not contiguous, expanded, and further apart than 2^31 elements."""
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    expected = everything(x, impl="native")
    equal(everything(x.T.contiguous().T, impl="native"), expected)
    equal(everything(x.repeat(1, 2)[:, :30], impl="native"), expected)
    far = torch.from_file(str(tmp_path / "far"), True, 39 * 2**26 + 30, dtype=torch.float16).as_strided(
        (40, 30), (2**26, 1)
    )
    assert far.stride(0) * 39 > 2**31
    far.copy_(x)
    equal(everything(far, impl="native"), everything(x.half(), impl="native"))
    one = semdedup(x[:1].expand(100_000, 30), eps=0.5, impl="native")
    assert one.kept.sum() == 1
    assert (one.duplicate_of[1:] == 0).all()
    assert (one.max_similarity[1:] == 1).all()


def test_a_cluster_never_costs_the_square_of_its_rows() -> None:
    """20,000 rows of 4 numbers: all similarities would be 1.6 GB in float32."""
    code = """
import re, torch
from pathlib import Path
from adaptinf_kernels import semdedup
def peak():  # KiB; unlike getrusage's, of this program alone
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
x = torch.randn(20_000, 4)
semdedup(x[:300], eps=0.1, impl="native")
before = peak()
for keep in ("reference", "greedy"):
    semdedup(x, eps=0.001, keep=keep, impl="native")
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert int(done.stdout) < 60_000  # KiB


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(native().__file__).parent.parent)}


def problem(**changes: str) -> str:
    parts = {
        "x": f"(P, [4, 3], [3, 1], {F32}, 1, 0)",
        "rows": f"(P, [5], [1], {I64}, 1, 0)",
        "bounds": f"(B, [3], [1], {I64}, 1, 0)",
        "keep": "'greedy'",
        "thresholds": "[0.5]",
        "kept": f"(Q, [1, 5], [5, 1], {I8}, 1, 0)",
        "before": f"(Q + 1024, [1, 5], [5, 1], {I64}, 1, 0)",
        "similarity": f"(Q + 2048, [1, 5], [5, 1], {F64}, 1, 0)",
        "threads": "1",
        "level": "''",
    }
    assert changes.keys() <= parts.keys()
    p = {**parts, **changes}
    found = f"({p['kept']}, {p['before']}, {p['similarity']})"
    return (
        f"_C.semdedup(({p['x']}, {p['rows']}, {p['bounds']}), {p['keep']}, {p['thresholds']}, {found},"
        f" {p['threads']}, {p['level']})"
    )


def farthest(function: str, numbers: str, **changes: str) -> str:
    return problem(**changes).replace("_C.semdedup", f"_C.{function}").replace("'greedy', [0.5]", numbers)


HOSTILE = {
    problem(x=f"(0, [4, 3], [3, 1], {F32}, 1, 0)"): "x: null pointer",
    problem(x=f"(P, [4, -3], [3, 1], {F32}, 1, 0)"): "x: a size is negative",
    problem(x=f"(P, [4, 3], [-3, 1], {F32}, 1, 0)"): "x: rows overlap or run backwards",
    problem(x=f"(P, [4, 3], [3, 2], {F32}, 1, 0)"): "x: the last stride",
    problem(x=f"(P, [4, 3], [2**62, 1], {F32}, 1, 0)"): "x.*overflows",
    problem(x=f"(P, [4, 3], [3, 1], {I64}, 1, 0)"): "x: dtype",
    problem(x=f"(P, [4, 3], [3, 1], {F32}, 2, 0)"): "x: must be in the memory of the CPU",
    problem(x=f"(P + 2, [4, 3], [3, 1], {F32}, 1, 0)"): "x: pointer is not aligned",
    problem(x=f"(P, [1, 2**21], [2**21, 1], {F32}, 1, 0)"): "more than 2.20 columns",
    problem(rows=f"(N, [5], [1], {I64}, 1, 0)"): "rows: must be rows of x",
    problem(rows=f"(B, [5], [1], {I64}, 1, 0)"): "rows: must be rows of x",
    problem(rows=f"(P, [5, 1], [1, 1], {I64}, 1, 0)"): "rows: needs 1 sizes",
    problem(rows=f"(P, [], [], {I64}, 1, 0)"): "rows: needs 1 sizes",
    problem(rows=f"(P, [-5], [1], {I64}, 1, 0)"): "rows: a size is negative",
    problem(rows=f"(P, [5], [1], {F64}, 1, 0)"): "rows: dtype",
    problem(bounds=f"(B, [0], [1], {I64}, 1, 0)"): "bounds: must be at least",
    problem(bounds=f"(B, [2], [1], {I64}, 1, 0)"): "bounds: must run",
    problem(bounds=f"(B + 24, [3], [1], {I64}, 1, 0)"): "bounds: must run",
    problem(bounds=f"(B + 48, [4], [1], {I64}, 1, 0)"): "bounds: must not fall",
    problem(bounds=f"(B, [3], [2], {I64}, 1, 0)"): "bounds: the last stride",
    problem(keep="'best'"): "keep 'best'",
    problem(thresholds="[float('nan')]"): "thresholds: must be numbers",
    problem(thresholds="[0.1, 0.2]"): "found: each must be",
    problem(thresholds="[]"): "found: each must be",
    problem(kept=f"(Q, [1, 4], [4, 1], {I8}, 1, 0)"): "found: each must be",
    problem(before=f"(Q, [1, 5], [5, 1], {F64}, 1, 0)"): "before: dtype",
    problem(similarity=f"(0, [1, 5], [5, 1], {F64}, 1, 0)"): "similarity: null",
    problem(
        kept=f"(Q, [2, 5], [5, 1], {I8}, 1, 0)",
        before=f"(Q, [2, 5], [0, 1], {I64}, 1, 0)",
        thresholds="[0.1, 0.2]",
    ): "before: rows overlap",
    problem(threads="0"): "threads",
    problem(level="'sse9'"): "choose from portable",
    farthest("semdedup_farthest", f"(N, [2], [1], {I64}, 1, 0)"): "budgets: beyond",
    farthest("semdedup_farthest", f"(B + 72, [2], [1], {I64}, 1, 0)"): "budgets: beyond",
    farthest("semdedup_farthest", f"(P, [3], [1], {I64}, 1, 0)"): r"budgets: must be \[2\]",
    farthest("semdedup_farthest_of_all", f"6, (P, [5], [1], {I64}, 1, 0)"): "budget: beyond",
    farthest("semdedup_farthest_of_all", f"-1, (P, [5], [1], {I64}, 1, 0)"): "budget: beyond",
    farthest("semdedup_farthest_of_all", f"1, (P, [4], [1], {I64}, 1, 0)"): r"ranks: must be \[5\]",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    numbers = [
        "bounds = (ctypes.c_int64 * 16)(0, 2, 5, 1, 2, 5, 0, 3, 2, 5, 4, 0)",
        "negative = (ctypes.c_int64 * 8)(*[-1] * 8)",
        "B, N = map(ctypes.addressof, (bounds, negative))",
    ]
    right = [problem(), farthest("semdedup_farthest", f"(P, [2], [1], {I64}, 1, 0)")]
    return outcomes_of(HOSTILE, setup=numbers, right=right)


@pytest.mark.parametrize("call", HOSTILE)
def test_hostile_numbers_raise(outcomes: dict[str, str], call: str) -> None:
    assert re.search(HOSTILE[call], outcomes[call])


def test_numbers_that_are_none_do_no_harm() -> None:
    """The public function refuses them; below it they must not crash, and give results of the right kind."""
    x = torch.randn(300, 20)
    x[5], x[7, 3], x[9] = float("nan"), float("inf"), 3e38
    rows = torch.arange(300)
    for keep in (*get_args(Keep), "farthest"):
        budgets = torch.tensor([100]) if keep == "farthest" else None
        thresholds = [] if keep == "farthest" else [0.5]
        kept, before, _ = implementation.run(x, rows, torch.tensor([0, 300]), rows, keep, thresholds, budgets)
        assert kept.shape == (1, 300)
        assert before.min() >= -1
        assert before.max() < 300


@pytest.mark.slow
def test_no_sanitizer_complains(repository: Path, tmp_path: Path) -> None:
    """Every rule on memory of exactly the inputs' sizes, under AddressSanitizer and UBSan."""
    sources = ["common/parallel.cpp", "grad_sketch/kernels_cpu.cpp", "semdedup"]
    assert run_sanitized(repository, tmp_path, "semdedup_driver.cpp", sources) >= 4 * 4 * 5
