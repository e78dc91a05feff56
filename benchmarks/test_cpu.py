"""The op-level cases under pytest-benchmark: ``python -m pytest benchmarks --benchmark-group-by=param:workload``.

The same inputs, gates and contenders as ``python -m benchmarks run``; what fails its gate fails here.
"""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import NotSupportedError
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.case import Setting, UnavailableError, Workload
from benchmarks.cases import CASES
from benchmarks.measure import SEED

OPS = {case.name: case for case in CASES if "cpu" in case.suites and not case.name.startswith(("pass", "less"))}


def contenders(scale: str) -> list[tuple[str, str]]:
    """(case, contender) of every op; the names do not depend on the scale, but for the reference at tiny scale."""
    setting = Setting("cpu", scale, torch.device("cpu"))
    names = [(case.name, one.name) for case in OPS.values() for one in case.build(setting).contenders]
    return [(case, name) for case, name in names if "reference" not in name or case == "signs"]


@pytest.fixture(scope="module")
def workload(request: pytest.FixtureRequest) -> Workload:
    torch.manual_seed(SEED)
    return OPS[request.param].build(Setting("cpu", "full", torch.device("cpu")))


@pytest.mark.parametrize(("workload", "contender"), contenders("tiny"), indirect=["workload"])
def test_op(benchmark: BenchmarkFixture, workload: Workload, contender: str) -> None:
    chosen = next(one for one in workload.contenders if one.name == contender)
    try:
        run = chosen.prepare()
        outputs = chosen.outputs(run())
    except (UnavailableError, NotSupportedError) as error:
        pytest.skip(" ".join(str(error).split()))
    verdict = chosen.gate.check(outputs)
    assert verdict.passed, f"{verdict.what}: error {verdict.error:.3g} exceeds {verdict.tolerance:.3g}"
    benchmark.extra_info.update(workload.shape)
    benchmark.pedantic(run, rounds=7, warmup_rounds=1)
