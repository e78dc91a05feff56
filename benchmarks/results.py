"""The result file: what it holds, reading and writing it, comparing two."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = 1
Status = Literal["timed", "wrong", "failed", "unavailable"]
"""Of a contender: timed; its output failed the gate; it raised; it cannot take part here."""


@dataclass
class Measurement:
    """One contender. Seconds and bytes; ``memory`` is what a call adds to the peak at most."""

    contender: str
    ours: bool
    status: Status
    reason: str = ""
    checked: str = ""
    error: float | None = None
    tolerance: float | None = None
    times: dict[str, float] | None = None
    note: str = ""
    flops: float | None = None
    bytes: float | None = None
    roofline: float | None = None
    bandwidth: float | None = None
    memory: int | None = None


@dataclass
class CaseResult:
    """``reason`` says why there are no measurements, or is empty."""

    case: str
    baseline: str
    shape: dict[str, Any] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    samples: int | None = None
    seconds: float = 0.0
    reason: str = ""
    not_reached: bool = False

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> CaseResult:
        measurements = [Measurement(**one) for one in content["measurements"]]
        return cls(**{**content, "measurements": measurements})

    def find(self, contender: str) -> Measurement | None:
        return next((one for one in self.measurements if one.contender == contender), None)


@dataclass
class GoalResult:
    """``met`` is None where there is no figure; ``reason`` says why."""

    goal: str
    bound: str
    figure: float | None
    met: bool | None
    reason: str = ""


@dataclass
class Report:
    """Everything that one run found."""

    created: str
    command: str
    commit: str
    suite: str
    scale: str
    machine: dict[str, Any]
    versions: dict[str, str]
    peers: dict[str, str]
    peaks: dict[str, float]
    cases: list[CaseResult]
    goals: list[GoalResult]
    schema: int = SCHEMA

    @property
    def broken(self) -> list[str]:
        """What makes the run red: our implementations that are wrong or raise, and cases that fell over."""
        found = [f"{case.case}: {case.reason}" for case in self.cases if case.reason and not case.not_reached]
        for case in self.cases:
            for one in case.measurements:
                if one.ours and one.status in ("wrong", "failed"):
                    found.append(f"{case.case}, {one.contender}: {one.status} ({one.reason})")
        return found

    def find(self, case: str, contender: str) -> Measurement | None:
        return next((found for one in self.cases if one.case == case and (found := one.find(contender))), None)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Report:
        """Raises ValueError where the file is no result of this schema."""
        try:
            content = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} cannot be read as a result: {error}") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"{path} has schema {schema}, this version reads {SCHEMA}: measure again")
        try:
            content["cases"] = [CaseResult.from_json(one) for one in content["cases"]]
            content["goals"] = [GoalResult(**one) for one in content["goals"]]
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of `python -m benchmarks`: {error}") from error


@dataclass(frozen=True)
class Change:
    """``ratio`` is new over old; a regression is slower by more than chance."""

    case: str
    contender: str
    ratio: float
    regression: bool
    improvement: bool


def compare(old: Report, new: Report, *, threshold: float = 1.1) -> list[Change]:
    """Medians of the contenders that both timed. Raises ValueError where the two are not comparable.

    A change counts where the medians differ by more than ``threshold`` and the middle halves of the samples do not
    overlap.
    """
    for what, a, b in (
        ("suite", old.suite, new.suite),
        ("scale", old.scale, new.scale),
        ("processor", old.machine["cpu"], new.machine["cpu"]),
        ("threads", old.machine["threads"], new.machine["threads"]),
        ("GPU", old.machine.get("gpu", {}).get("name"), new.machine.get("gpu", {}).get("name")),
    ):
        if a != b:
            raise ValueError(f"the results differ in {what} ({a}; {b}): times of unlike runs do not compare")
    changes = []
    for case in new.cases:
        for after in case.measurements:
            before = old.find(case.case, after.contender)
            if before is None or before.times is None or after.times is None:
                continue
            ratio = after.times["median"] / before.times["median"]
            slower = ratio > threshold and after.times["q25"] > before.times["q75"]
            faster = ratio < 1 / threshold and after.times["q75"] < before.times["q25"]
            changes.append(Change(case.case, after.contender, ratio, slower and after.ours, faster))
    return changes


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all: written beside its place, then renamed."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, path)
