"""The commands, as a user calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, orchestrate
from benchmarks.__main__ import main
from benchmarks.goals import GOALS
from benchmarks.results import Report


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=orchestrate.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.slow
def test_dry_run_of_the_gpu_suite(tmp_path: Path) -> None:
    """Every case, gate, contender and table of the GPU suite, with tiny shapes on the CPU."""
    out = tmp_path / "gpu.json"
    done = call("gpu", "--dry-run", "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = Report.read(out)
    assert (report.suite, report.scale) == ("gpu", "tiny")
    assert not any(case.reason for case in report.cases)
    ours = [one for case in report.cases for one in case.measurements if one.ours]
    assert {one.status for one in ours} <= {"timed", "unavailable"}
    timed = [case.case for case in report.cases if any(one.ours and one.times for one in case.measurements)]
    assert timed == [case.case for case in report.cases]
    plain = [one for case in report.cases for one in case.measurements if one.contender == "plain"]
    assert plain
    assert all(one.status == "timed" for one in plain)
    assert len(report.goals) == sum(goal.suite == "gpu" for goal in GOALS)
    assert out.with_suffix(".md").read_text() in done.stdout


@pytest.mark.slow
def test_run_and_compare(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    done = call("run", "--quick", "--only", "signs", "--out", str(old))
    assert done.returncode == 0, done.stderr
    report = Report.read(old)
    assert [case.case for case in report.cases] == ["signs"]
    assert report.command == "python -m benchmarks run --quick --only signs"  # and not where it was written
    assert report.machine["threads"] == 1
    reference = report.find("signs", "reference")
    assert reference is not None
    assert reference.times is not None
    assert main(["compare", str(old), str(old)]) == 0
    reference.times = {name: value / 10 for name, value in reference.times.items()}
    report.write(tmp_path / "faster.json")
    assert main(["compare", str(tmp_path / "faster.json"), str(old)]) == 1
    assert main(["compare", str(old), str(tmp_path / "faster.json")]) == 0


def test_an_unknown_case_names_the_known_ones(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--quick", "--only", "no-such-case"]) == 2
    message = capfd.readouterr().err
    assert "no-such-case" in message
    assert "project-sjlt" in message


def test_a_file_that_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path / "none.json"), str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_a_worker_that_dies_costs_its_case_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\n# a worker that falls over in the case 'bad' and does the others\n"
        f"exec {sys.executable} - \"$3\" <<'END'\n"
        "import json, os, pathlib, sys\n"
        "job = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "for name in job['cases']:\n"
        "    if name == 'bad':\n"
        "        os.abort()\n"
        "    result = {'case': name, 'baseline': 'b', 'measurements': []}\n"
        "    (pathlib.Path(job['out']) / f'{name}.json').write_text(json.dumps(result))\n"
        "END\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(orchestrate.sys, "executable", str(program))
    survey = {"cases": [{"name": n, "baseline": "b"} for n in ("first", "bad", "last")], "peaks": {}}
    plan = orchestrate.Plan("cpu", "tiny", "cpu")
    results = orchestrate._measure(plan, survey, tmp_path, deadline=1e12)
    assert [one.case for one in results] == ["first", "bad", "last"]
    assert [bool(one.reason) for one in results] == [False, True, False]
    assert "-6" in results[1].reason


@pytest.mark.slow
def test_without_time_the_rest_is_not_reached(tmp_path: Path) -> None:
    done = call("gpu", "--dry-run", "--only", "signs", "--budget", "0", "--out", str(tmp_path / "x.json"))
    assert done.returncode == 0, done.stderr
    (case,) = Report.read(tmp_path / "x.json").cases
    assert case.not_reached
    assert "time was up" in case.reason


def test_the_build_is_for_the_device_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(command: list[str], **options) -> subprocess.CompletedProcess[str]:
        asked.append((command, options))
        return subprocess.CompletedProcess(command, 0, "9 0\n", "")

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert gpu.build(100.0) >= 0
    command, options = asked[-1]
    assert command[1:] == ["setup.py", "build_ext", "--inplace"]
    assert options["env"]["ADAPTINF_CUDA_ARCHS"] == "90a"
    assert options["env"]["ADAPTINF_CUDA"] == "1"
    assert options["timeout"] == 100.0


def test_without_a_device_the_message_names_the_dry_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
    assert main(["gpu"]) == 2
    assert "--dry-run" in capsys.readouterr().err
