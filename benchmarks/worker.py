"""The processes that do the measuring, started by ``orchestrate``.

A process of its own for the cases keeps a fault of one from ending the run, and one for each memory footprint keeps the
peaks apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.case import Case, Setting
from benchmarks.cases import CASES
from benchmarks.measure import footprint, measure
from benchmarks.results import CaseResult, write_json


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("job", type=Path, help="JSON file of the job")
    job = json.loads(parser.parse_args(arguments).job.read_text())
    setting = Setting(job["suite"], job["scale"], torch.device(job["device"]))
    {"survey": _survey, "measure": _measure, "footprint": _footprint}[job["task"]](job, setting)


def select(suite: str, pattern: str) -> list[Case]:
    """The case of that name, or all whose name matches, most important first. Raises ValueError where there is none."""
    known = [case for case in CASES if suite in case.suites]
    chosen = [case for case in known if case.name == pattern]
    chosen = chosen or [case for case in known if fnmatch.fnmatch(case.name, pattern)]
    if not chosen:
        names = ", ".join(case.name for case in known)
        raise ValueError(f"no case of the {suite} suite matches {pattern!r}; there are {names}")
    return sorted(chosen, key=lambda case: case.rank)


def _survey(job: dict[str, Any], setting: Setting) -> None:
    try:
        chosen = select(job["suite"], job["only"])
    except ValueError as error:
        write_json(Path(job["out"]), {"error": str(error)})
        return
    found = {
        "machine": machine.facts(setting.device),
        "versions": machine.versions(machine.LIBRARIES),
        "peers": machine.versions(machine.PEERS),
        "peaks": machine.peaks(setting.device, tiny=setting.tiny),
        "commit": machine.commit(),
        "cases": [{"name": case.name, "baseline": case.baseline} for case in chosen],
    }
    write_json(Path(job["out"]), {**found, "hardware": machine.hardware(found["machine"])})


def _measure(job: dict[str, Any], setting: Setting) -> None:
    by_name = {case.name: case for case in CASES}
    for name in job["cases"]:
        case, target = by_name[name], Path(job["out"]) / f"{name}.json"
        if time.time() > job["deadline"]:
            late = CaseResult(case.name, case.baseline, reason="not reached: the time was up", not_reached=True)
            write_json(target, dataclasses.asdict(late))
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        result = measure(case, setting, rounds=job["rounds"], seconds=job["seconds"], peaks=job["peaks"])
        if setting.device.type == "cpu":
            wanted = case.footprints[:1] if setting.tiny else case.footprints
            for one in result.measurements:
                if one.status == "timed" and one.contender in wanted:
                    one.memory = _footprint_elsewhere(job, case.name, one.contender, Path(job["out"]))
        else:
            torch.cuda.empty_cache()
        write_json(target, dataclasses.asdict(result))


def _footprint_elsewhere(job: dict[str, Any], case: str, contender: str, folder: Path) -> int | None:
    task = folder / "footprint.job"
    answer = folder / "footprint.answer"
    answer.unlink(missing_ok=True)
    write_json(task, {**job, "task": "footprint", "case": case, "contender": contender, "out": str(answer)})
    # With a fixed threshold malloc gives every large block back when it is freed: the footprint is then that of what
    # the contender holds, to a fifth of a mebibyte, and not of how a heap happened to fragment (10 % either way).
    settled = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    subprocess.run([sys.executable, "-m", "benchmarks.worker", str(task)], check=True, env=settled)
    return json.loads(answer.read_text())


def _footprint(job: dict[str, Any], setting: Setting) -> None:
    case = next(case for case in CASES if case.name == job["case"])
    write_json(Path(job["out"]), footprint(case, setting, job["contender"]))


if __name__ == "__main__":
    main(sys.argv[1:])
