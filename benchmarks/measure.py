"""Measuring a case: gate, then interleaved times, then memory."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from adaptinf_kernels import NotSupportedError

from benchmarks.case import Case, Contender, Setting, UnavailableError, Workload
from benchmarks.results import CaseResult, Measurement
from benchmarks.timing import Times, clock_for, interleave

SEED = 20_000
"""Of the global generators; the inputs' own generators have small seeds, and equal seeds would give equal numbers."""


def measure(
    case: Case, setting: Setting, *, rounds: int, seconds: float, peaks: Mapping[str, float] | None = None
) -> CaseResult:
    """Times of all contenders whose output is right. ``seconds``: after which a contender takes no further rounds.

    A contender that raises, cannot run or is wrong is reported as such; what raises while inputs or references are made
    is a defect of the suite and propagates.
    """
    begin = time.perf_counter()
    torch.manual_seed(SEED)
    random.seed(SEED)
    workload = case.build(setting)
    _check_names(case, workload)
    clock = clock_for(setting.device)
    found: dict[str, Measurement] = {}
    samplers: dict[str, Callable[[], float]] = {}
    for contender in workload.contenders:
        one, run, first = _admit(contender)
        found[contender.name] = one
        if run is not None:
            if setting.device.type == "cuda":
                one.memory = _cuda_memory(run, setting.device)
            samplers[contender.name], one.note = clock.sampler(run, first=first, graph=contender.graph)
    for name, samples in interleave(samplers, rounds=rounds, seconds=seconds).items():
        found[name].times = dataclasses.asdict(Times.of(samples))
    for contender in workload.contenders:
        _count(found[contender.name], contender, peaks or {})
    spent = time.perf_counter() - begin
    return CaseResult(case.name, case.baseline, workload.shape, list(found.values()), workload.samples, round(spent, 3))


def _check_names(case: Case, workload: Workload) -> None:
    names = [contender.name for contender in workload.contenders]
    if len(set(names)) != len(names) or case.baseline not in names:
        raise ValueError(f"{case.name}: contenders {names} must be distinct and hold the baseline {case.baseline!r}")


def _admit(contender: Contender) -> tuple[Measurement, Callable[[], Any] | None, float]:
    """The contender's measurement so far, its function where the gate passed, and how long its first call took."""
    one = Measurement(contender.name, contender.ours, "timed")
    try:
        run = contender.prepare()
        start = time.perf_counter()
        found = run()
        first = time.perf_counter() - start
        outputs = contender.outputs(found)
    except (UnavailableError, NotSupportedError) as error:
        one.status, one.reason = "unavailable", _line(error)
        return one, None, 0.0
    except Exception as error:  # noqa: BLE001 - anything that a peer raises is a finding, not the end of the run
        one.status, one.reason = "failed", f"{type(error).__name__}: {_line(error)}"
        return one, None, 0.0
    verdict = contender.gate.check(outputs)
    one.error, one.tolerance, one.checked = verdict.error, verdict.tolerance, verdict.what
    if not verdict.passed:
        one.status = "wrong"
        one.reason = f"{verdict.what}: error {verdict.error:.3g} exceeds {verdict.tolerance:.3g}"
        return one, None, 0.0
    return one, run, first


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _count(one: Measurement, contender: Contender, peaks: Mapping[str, float]) -> None:
    """Operations, bytes, and how much of what the machine can do that is."""
    if contender.cost is None:
        return
    one.flops, one.bytes = contender.cost.flops, contender.cost.bytes
    if one.times is None or not peaks:
        return
    copying = contender.cost.bytes / peaks["copy"]
    floor = max(copying, contender.cost.flops / peaks[contender.cost.dtype])
    one.roofline, one.bandwidth = floor / one.times["median"], copying / one.times["median"]


def _cuda_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Peak of the allocator during one call, over what was allocated before it."""
    run()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def footprint(case: Case, setting: Setting, contender: str) -> int:
    """By how many bytes two calls raise the peak of this process' resident memory. Needs a process of its own."""
    torch.manual_seed(SEED)
    workload = case.build(setting)
    run = next(one for one in workload.contenders if one.name == contender).prepare()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = _resident("VmRSS")
    for _ in range(2):
        run()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise UnavailableError(f"this system does not report {field}")
