"""A run from beginning to end. This process imports neither torch nor the library: workers do the work."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.goals import judge
from benchmarks.results import CaseResult, Report, write_json

ROOT = Path(__file__).resolve().parent.parent
GRACE = 60.0
"""Seconds after the deadline in which the case under way may end."""


@dataclass(frozen=True)
class Plan:
    """What a run is asked for.

    ``seconds``: of one contender, after which it takes no further rounds; ``budget``: of everything.
    """

    suite: str
    scale: str
    device: str
    only: str = "*"
    command: str = ""
    rounds: int = 14
    seconds: float = 20.0
    budget: float = 24 * 3600.0


def execute(plan: Plan, out: Path | None = None) -> tuple[Report, Path]:
    """Measure; the report and the file it was written to (``out``, else ``results/<hardware>/<day>-<commit>.json``).

    Raises ValueError where nothing matches ``plan.only``.
    """
    deadline = time.time() + plan.budget
    with tempfile.TemporaryDirectory(prefix="adaptinf-benchmarks-") as name:
        folder = Path(name)
        survey = _survey(plan, folder)
        print(f"{survey['hardware']}: {len(survey['cases'])} cases", file=sys.stderr)
        cases = _measure(plan, survey, folder, deadline)
    now = dt.datetime.now(dt.timezone.utc)
    report = Report(
        created=now.isoformat(timespec="seconds"),
        command=plan.command,
        commit=survey["commit"],
        suite=plan.suite,
        scale=plan.scale,
        machine=survey["machine"],
        versions=survey["versions"],
        peers=survey["peers"],
        peaks=survey["peaks"],
        cases=cases,
        goals=[],
    )
    report.goals = judge(report)
    target = out or ROOT / "benchmarks/results" / survey["hardware"] / f"{now:%Y-%m-%d}-{report.commit}.json"
    report.write(target)
    return report, target


def environment() -> dict[str, str]:
    """Of the workers: this checkout comes first, whatever is installed."""
    path = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "ADAPTINF_PROGRESS": "0",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",  # of libraries about their own next version
    }


def _job(plan: Plan, task: str, out: Path, **more: Any) -> dict[str, Any]:
    return {"task": task, "suite": plan.suite, "scale": plan.scale, "device": plan.device, "out": str(out), **more}


def _survey(plan: Plan, folder: Path) -> dict[str, Any]:
    job, answer = folder / "survey.job", folder / "survey.json"
    write_json(job, _job(plan, "survey", answer, only=plan.only))
    command = [sys.executable, "-m", "benchmarks.worker", str(job)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), check=False)
    if done.returncode:
        raise ValueError("the survey of this machine failed, see above; is the library's environment complete?")
    found = json.loads(answer.read_text())
    if "error" in found:
        raise ValueError(found["error"])
    return found


def _measure(plan: Plan, survey: dict[str, Any], folder: Path, deadline: float) -> list[CaseResult]:
    """Results in the survey's order. A worker that dies costs the case it died in; the next one goes on after it."""
    baselines = {case["name"]: case["baseline"] for case in survey["cases"]}
    pending, results = list(baselines), folder / "results"
    results.mkdir()
    fallen: dict[str, CaseResult] = {}
    while pending:
        ended = _work(plan, survey, pending, results, deadline)
        pending = [name for name in pending if not (results / f"{name}.json").exists()]
        if pending:
            first = pending.pop(0)
            fallen[first] = CaseResult(first, baselines[first], reason=ended)
    return [
        fallen.get(name) or CaseResult.from_json(json.loads((results / f"{name}.json").read_text()))
        for name in baselines
    ]


def _work(plan: Plan, survey: dict[str, Any], cases: list[str], results: Path, deadline: float) -> str:
    """Run a worker on the cases; how it ended."""
    job = results / "measure.job"
    more = {"rounds": plan.rounds, "seconds": plan.seconds, "peaks": survey["peaks"], "deadline": deadline}
    write_json(job, _job(plan, "measure", results, cases=cases, **more))
    with subprocess.Popen([sys.executable, "-m", "benchmarks.worker", str(job)], cwd=ROOT, env=environment()) as worker:
        try:
            code = worker.wait(timeout=max(1.0, deadline + GRACE - time.time()))
        except subprocess.TimeoutExpired:
            worker.kill()
            return "it was still running when the time was up"
    return f"its process ended with status {code}"
