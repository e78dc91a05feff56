"""The tables of docs/influence.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from adaptinf.influence.demonstrations import CURATION
from adaptinf.influence.ranking import METHODS
from benchmarks.document import table
from benchmarks.quality.goals import Goal
from benchmarks.quality.report import GOAL_COLUMNS
from benchmarks.quality.statistics import Estimate, estimate

Row = dict[str, Any]
UNLEARNING = (
    "trained", "edit", "by", "distance left", "operations", "time",
    "damping / decay", "accuracy: before, after, retrained",
    "NLL of the samples concerned",
)  # fmt: skip
RANKING = ("problem", "method", "leaving one out", "one step on it")
DEMONSTRATIONS = ("problem", "demonstrations", "gradients", "alpha", "of a query", "of itself", "wrong labels found")


def markdown(rows: Sequence[Row]) -> str:
    """Goals, and a table a study; means over seeds with 95 % intervals."""
    missing = [f"Left out: {row['reason']}." for row in rows if "reason" in row]
    rows = [row for row in rows if "reason" not in row]
    parts = [
        *missing,
        *_section(GOAL_COLUMNS, [_verdict(goal) for goal in goals(rows)]),
        *_section(UNLEARNING, [_edit(group) for group in _groups(rows, "unlearning", "problem", "edit", "way")]),
        *_section(RANKING, [_ranks(group) for group in _groups(rows, "ranking", "problem", "method")]),
        *_section(
            DEMONSTRATIONS,
            [_shown(group) for group in _groups(rows, "demonstrations", "problem", "n", "penalty", "alpha")],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def goals(rows: Sequence[Row]) -> list[Goal]:
    found = []
    removals = {(row["problem"], row["way"]): [] for row in rows if row["study"] == "unlearning"}
    for row in rows:
        if row["study"] == "unlearning" and row["edit"] == "removal":
            removals[row["problem"], row["way"]].append(row)
    for problem in dict.fromkeys(problem for problem, _ in removals):
        edited, common = removals[problem, "newton"], removals[problem, "adam"]
        where = f"{problem}, removal: "
        left = _of(edited, "left")
        found.append(Goal(where + "distance left", "at most 30 %", _percent(left), left.mean <= 0.3))
        for unit, name in (("flops", "operations"), ("seconds", "time")):
            share = estimate([a[unit] / b[unit] for a, b in zip(edited, common, strict=True)])
            about = f"{where}{name}, of retraining by Adam"
            found.append(Goal(about, "at most 5 %", _percent(share), share.mean <= 0.05))
        points = estimate([100 * abs(row["edited_accuracy"] - row["retrained_accuracy"]) for row in edited])
        about = where + "held-out accuracy, from the retrained model's"
        found.append(Goal(about, "within 1 point", _plain(points, " points"), points.mean <= 1))
    for group in _groups(rows, "ranking", "problem", "method"):
        first, agreement = group[0], _of(group, "leave_one_out")
        if first["method"] not in METHODS:
            continue
        about = f"`{first['method']}` on {first['problem']}: Spearman with leaving one out"
        found.append(Goal(about, "at least 0.8", _plain(agreement), agreement.mean >= 0.8))
    for group in _groups(rows, "demonstrations", "problem", "n", "penalty", "alpha"):
        if group[0]["alpha"] == CURATION:
            agreement, (problem, n, gradients, *_) = _of(group, "test"), _shown(group)
            about = f"DETAIL ({gradients}) on {n} of {problem}: Spearman with leaving one out"
            found.append(Goal(about, "at least 0.8", _plain(agreement), agreement.mean >= 0.8))
    return found


def _groups(rows: Sequence[Row], study: str, *keys: str) -> Iterator[list[Row]]:
    """The rows of all seeds, in the order in which the first of each came."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["study"] == study:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    yield from groups.values()


def _section(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["\n".join(table(columns, rows))] if rows else []


def _verdict(goal: Goal) -> list[str]:
    return [goal.about, goal.wanted, goal.found, "yes" if goal.met else "no"]


def _edit(group: list[Row]) -> list[str]:
    first = group[0]
    three = [f"{100 * _of(group, f'{when}_accuracy').mean:.1f}" for when in ("before", "edited", "retrained")]
    about = [f"{_of(group, f'{when}_about_nll').mean:.2f}" for when in ("before", "edited", "retrained")]
    return [
        first["problem"],
        first["edit"],
        first["way"],
        _percent(_of(group, "left")),
        _percent(_of(group, "flops")),
        _percent(_of(group, "seconds")),
        f"{_of(group, 'damping').mean / first['decay']:.1f}" if "damping" in first else "",
        ", ".join(three),
        ", ".join(about),
    ]


def _ranks(group: list[Row]) -> list[str]:
    found = [_plain(_of(group, name)) for name in ("leave_one_out", "one_step")]
    return [group[0]["problem"], f"`{group[0]['method']}`", *found]


def _shown(group: list[Row]) -> list[str]:
    cells = [_plain(_of(group, name)) if name in group[0] else "" for name in ("test", "itself", "wrong_labels")]
    first = group[0]
    gradients = "published" if first["penalty"] else "without penalty"
    return [first["problem"], str(first["n"]), gradients, f"{first['alpha']:g}", *cells]


def _of(group: Sequence[Row], name: str) -> Estimate:
    return estimate([row[name] for row in group])


def _percent(found: Estimate) -> str:
    return _shown_with(found, lambda value: f"{100 * value:.1f}") + " %"


def _plain(found: Estimate, unit: str = "") -> str:
    return _shown_with(found, lambda value: f"{value:.2f}") + unit


def _shown_with(found: Estimate, form: Callable[[float], str]) -> str:
    return form(found.mean) + (f" ± {form(found.half)}" if found.n > 1 else "")
