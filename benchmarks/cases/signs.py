"""Philox signs."""

from __future__ import annotations

from adaptinf_kernels import signs

from benchmarks.case import Case, Cost, Setting, Workload
from benchmarks.cases.common import implementations
from benchmarks.gate import Equal


def _build(setting: Setting) -> Workload:
    rows, columns = (4, 300) if setting.tiny else (64, 16_384) if setting.suite == "cpu" else (512, 1 << 18)

    def run(impl: str):
        return signs(0, "weight", rows, columns, device=setting.device, impl=impl)

    gate = Equal(lambda: {"value": run("reference")})
    contenders = implementations(
        setting, run, gate, lambda value: {"value": value}, cost=Cost(0, rows * columns), reference=True
    )
    return Workload({"rows": rows, "columns": columns}, tuple(contenders))


CASES = (Case("signs", _build, "reference", rank=90),)
