"""The result file, comparing two, and the goals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import table
from benchmarks.case import Setting
from benchmarks.cases import CASES
from benchmarks.goals import GOALS, Goal, judge
from benchmarks.results import SCHEMA, CaseResult, Measurement, Report, compare


def timed(
    name: str, median: float, *, ours: bool = True, spread: float = 0.01, memory: int | None = None
) -> Measurement:
    times = {
        "median": median,
        "q25": median * (1 - spread),
        "q75": median * (1 + spread),
        "minimum": median * (1 - 2 * spread),
        "rounds": 14,
    }
    return Measurement(name, ours, "timed", times=times, memory=memory, bandwidth=0.5)


def report(*measurements: Measurement, **changes) -> Report:
    fields = {
        "created": "2026-01-01T00:00:00+00:00",
        "command": "python -m benchmarks run",
        "commit": "abc",
        "suite": "cpu",
        "scale": "full",
        "machine": {"cpu": "a processor", "threads": 2, "load": 0.0},
        "versions": {"torch": "2.13.0"},
        "peers": {"traker": "not installed"},
        "peaks": {"copy": 1e10, "float32": 1e11},
        "cases": [CaseResult("case", "ours", {"n": 1}, list(measurements))],
        "goals": [],
    }
    return Report(**(fields | changes))


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    written = report(timed("ours", 1.0), Measurement("peer", False, "unavailable", "not installed"))
    written.goals = judge(written, (Goal("cpu", "g", "time", ("case", "ours"), None, "<=", 2),))
    written.write(tmp_path / "a" / "b.json")
    assert Report.read(tmp_path / "a" / "b.json") == written
    assert json.loads((tmp_path / "a" / "b.json").read_text())["schema"] == SCHEMA
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "cannot be read"),
        ("[]", "schema None"),
        ('{"schema": 99}', "schema 99"),
        (json.dumps({"schema": SCHEMA, "cases": [], "goals": []}), "is no result"),
        (json.dumps({**dataclasses.asdict(report()), "extra": 1}), "extra"),
        (json.dumps({"schema": SCHEMA, "cases": [{"measurements": [{"contender": 1}]}], "goals": []}), "is no result"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        Report.read(file)
    assert "x.json" in str(caught.value)


def test_compare_finds_what_became_slower() -> None:
    old = report(timed("steady", 1.0), timed("slower", 1.0), timed("faster", 1.0), timed("noisy", 1.0, spread=0.5))
    new = report(timed("steady", 1.02), timed("slower", 1.5), timed("faster", 0.5), timed("noisy", 1.5, spread=0.5))
    found = {one.contender: one for one in compare(old, new)}
    assert found["slower"].ratio == 1.5
    assert [name for name, one in found.items() if one.regression] == ["slower"]
    assert [name for name, one in found.items() if one.improvement] == ["faster"]
    assert "**slower**" in table.changes(list(found.values()))


def test_a_peer_that_became_slower_is_no_regression() -> None:
    (change,) = compare(report(timed("peer", 1.0, ours=False)), report(timed("peer", 2.0, ours=False)))
    assert change.ratio == 2
    assert not change.regression


def test_what_one_side_lacks_is_left_out() -> None:
    absent = Measurement("ours", True, "unavailable", "no GPU")
    assert compare(report(absent), report(timed("ours", 1.0))) == []
    assert compare(report(), report(timed("ours", 1.0))) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"suite": "gpu"},
        {"scale": "tiny"},
        {"machine": {"cpu": "another", "threads": 2}},
        {"machine": {"cpu": "a processor", "threads": 4}},
        {"machine": {"cpu": "a processor", "threads": 2, "gpu": {"name": "one"}}},
    ],
)
def test_unlike_runs_do_not_compare(changes: dict) -> None:
    with pytest.raises(ValueError, match="do not compare"):
        compare(report(timed("ours", 1.0)), report(timed("ours", 1.0), **changes))


def test_broken_is_what_is_ours() -> None:
    wrong = Measurement("ours", True, "wrong", "error 1 exceeds 0.1")
    raised = Measurement("other", True, "failed", "RuntimeError: x")
    peers = [Measurement("peer", False, "wrong", "error 9"), Measurement("absent", True, "unavailable", "no GPU")]
    assert report(*peers).broken == []
    assert report(wrong, raised, *peers).broken == [
        "case, ours: wrong (error 1 exceeds 0.1)",
        "case, other: failed (RuntimeError: x)",
    ]
    fallen = report(cases=[CaseResult("case", "ours", reason="its process ended with status -11")])
    assert fallen.broken == ["case: its process ended with status -11"]
    late = report(cases=[CaseResult("case", "ours", reason="not reached", not_reached=True)])
    assert late.broken == []


def goal(relation: str, bound: float, **more) -> Goal:
    fields = {"suite": "cpu", "what": "g", "quantity": "time", "of": ("case", "ours"), "over": ("case", "peer")}
    return Goal(**{**fields, "relation": relation, "bound": bound, **more})


def test_goals_are_ratios_of_medians() -> None:
    found = report(timed("ours", 1.0, memory=300), timed("peer", 4.0, memory=100))
    goals = (
        goal("<=", 0.25),
        goal("<=", 0.24),
        goal(">=", 4, of=("case", "peer"), over=("case", "ours")),
        goal(">=", 4.1, of=("case", "peer"), over=("case", "ours")),
        goal("<=", 2.9, quantity="memory"),
        goal(">=", 0.5, quantity="bandwidth", over=None),
        goal("<=", 1, suite="gpu"),
    )
    judged = judge(found, goals)
    assert [one.met for one in judged] == [True, False, True, False, False, True]
    assert [one.figure for one in judged] == [0.25, 0.25, 4, 4, 3, 0.5]
    text = table.markdown(dataclasses.replace(found, goals=judged))
    assert text.count("**not met**") == 3


def test_a_goal_without_figure_says_why() -> None:
    absent = Measurement("peer", False, "unavailable", "not installed")
    reasons = [
        judge(report(timed("ours", 1.0), absent), (goal("<=", 1),))[0],
        judge(report(timed("ours", 1.0)), (goal("<=", 1),))[0],
        judge(report(timed("ours", 1.0)), (goal("<=", 1, over=("other", "peer")),))[0],
        judge(report(timed("ours", 1.0), timed("peer", 1.0)), (goal("<=", 1, quantity="memory"),))[0],
        judge(report(timed("ours", 1.0, memory=1), timed("peer", 1.0, memory=0)), (goal("<=", 1, quantity="memory"),))[
            0
        ],
    ]
    assert all(one.met is None and one.figure is None for one in reasons)
    for one, text in zip(reasons, ["not installed", "no such contender", "not run", "no memory", "is 0"], strict=True):
        assert text in one.reason


def test_tiny_shapes_give_no_verdict() -> None:
    found = report(timed("ours", 1.0), timed("peer", 4.0), scale="tiny")
    (one,) = judge(found, (goal("<=", 0.25),))
    assert one.figure == 0.25
    assert one.met is None


@pytest.mark.parametrize("suite", ["cpu", "gpu"])
def test_every_goal_is_about_contenders_that_exist(suite: str) -> None:
    known = {}
    for case in CASES:
        if suite in case.suites:
            workload = case.build(Setting(suite, "tiny", torch.device("cpu")))
            known[case.name] = {one.name for one in workload.contenders}
    for one in GOALS:
        if one.suite == suite:
            for case, contender in [one.of, *([one.over] if one.over else [])]:
                assert contender in known[case], (one.what, case, contender)
