"""The table of docs/quality.md and a page with the intervals drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby

import numpy as np

from benchmarks.document import table
from benchmarks.quality.goals import Goal, saved_share
from benchmarks.quality.statistics import Estimate, Summary
from benchmarks.quality.streams import STREAMS

COLUMNS = (
    "strategy", "runs", "average accuracy", "minus random replay", "relative gain", "as learned", "forgetting",
    "worst task", "answers' NLL", "minus random replay's", "selecting", "of the training saved",
    "training", "same score at random", "same NLL at random",
)  # fmt: skip
SETTING_COLUMNS = (
    "with settings", "runs", "average accuracy", "minus without them", "worst task", "answers' NLL",
    "minus without them", "near-duplicates dropped", "selecting", "training",
)  # fmt: skip
GOAL_COLUMNS = ("goal", "wanted", "found", "met")
_WIDTH, _LEFT, _ROW = 760, 230, 22
_TITLE = "adaptinf: quality of selection"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; margin: 1rem 0 3rem }
td, th { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
svg text { font: 13px system-ui, sans-serif }
"""
_LEAD = (
    "<h1>Quality of selection</h1><p>Means with 95 % intervals over seeds and orders. "
    "The dashed line is random replay at the same budget.</p>"
)


def markdown(summaries: Sequence[Summary], found: Sequence[Goal]) -> str:
    """The goals, and a table a stream and budget. Scores in percent, with 95 % intervals over seeds and orders."""
    parts = [*table(GOAL_COLUMNS, [_goal(goal) for goal in found]), ""]
    for (stream, budget), rows in _tables(summaries):
        parts += [f"### {stream}, {_budget(budget)}", "", *([leak, ""] if (leak := _leakage(rows)) else [])]
        plain, settings = _split(rows)
        parts += [*table(COLUMNS, [_cells(row) for row in plain]), ""]
        if settings:
            parts += [*table(SETTING_COLUMNS, [_setting(row) for row in settings]), ""]
    return "\n".join(parts)


def page(summaries: Sequence[Summary], found: Sequence[Goal]) -> str:
    """The same as one HTML page without scripts, with a chart of each table's accuracies."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{_TITLE}</title><style>{_STYLE}</style>", _LEAD]
    parts += _html_table(GOAL_COLUMNS, [[text.replace("`", "") for text in _goal(goal)] for goal in found])
    for (stream, budget), rows in _tables(summaries):
        about = f"{STREAMS[stream].about}. {_leakage(rows)}"
        parts.append(f"<h2>{escape(stream)}, {_budget(budget)}</h2><p>{escape(about)}</p>")
        plain, settings = _split(rows)
        parts += [_chart(plain), *_html_table(COLUMNS, [_cells(row) for row in plain])]
        if settings:
            parts += _html_table(SETTING_COLUMNS, [_setting(row) for row in settings])
    return "\n".join([*parts, "</html>"])


def _split(rows: Sequence[Summary]) -> tuple[list[Summary], list[Summary]]:
    """Strategies, and strategies with settings of their own, which are compared with the same without."""
    return [row for row in rows if " " not in row.strategy], [row for row in rows if " " in row.strategy]


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = ["<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows]
    return [f"<table><tr>{head}</tr>", *lines, "</table>"]


def _goal(goal: Goal) -> list[str]:
    return [goal.about, goal.wanted, goal.found, {True: "yes", False: "no", None: ""}[goal.met]]


def _tables(summaries: Sequence[Summary]) -> list[tuple[tuple[str, float], list[Summary]]]:
    """By stream and budget; strategies that take all there is come with every budget of their stream."""
    tables = []
    for stream, of_stream in groupby(summaries, key=lambda s: s.stream):
        rows = list(of_stream)
        whole = [row for row in rows if row.budget == 1]
        for budget in sorted({row.budget for row in rows if row.budget < 1}, reverse=True) or [1.0]:
            mine = [row for row in rows if row.budget == budget and budget < 1] + whole
            tables.append(((stream, budget), sorted(mine, key=lambda s: -s.measures["average_accuracy"].mean)))
    return tables


def _budget(budget: float) -> str:
    return f"{100 * budget:g} % of the data"


def _cells(row: Summary) -> list[str]:
    def show(name: str, form: Callable[[Estimate], str]) -> str:
        return form(row.measures[name]) if name in row.measures else ""

    return [
        row.strategy,
        str(row.measures["average_accuracy"].n),
        show("average_accuracy", _percent),
        _signed(row.gain) if row.gain else "",
        show("relative_gain", lambda e: f"{e.mean:.0f}" + (f" ± {e.half:.0f} %" if e.n > 1 else " %")),
        show("learned_accuracy", lambda e: f"{100 * e.mean:.1f}"),
        show("forgetting", _percent),
        show("worst_task", _percent),
        show("final_nll", lambda e: f"{e.mean:.2f}"),
        _difference(row.nll_gain) if row.nll_gain else "",
        _cost(row, "selection"),
        "" if row.budget == 1 else f"{100 * _share(row):.1f} %",
        _cost(row, "training"),
        _at_random(row, row.random_budget),
        _at_random(row, row.random_budget_nll),
    ]


def _at_random(row: Summary, budget: float | None) -> str:
    return "" if row.budget == 1 else "never" if budget is None else f"{100 * budget:.0f} %"


def _setting(row: Summary) -> list[str]:
    near = row.measures.get("near_duplicates")
    return [
        row.strategy,
        str(row.measures["average_accuracy"].n),
        _percent(row.measures["average_accuracy"]),
        _signed(row.gain) if row.gain else "",
        _percent(row.measures["worst_task"]),
        f"{row.measures['final_nll'].mean:.2f}",
        _difference(row.nll_gain) if row.nll_gain else "",
        f"{100 * near.mean:.0f} %" if near else "",
        _cost(row, "selection"),
        _cost(row, "training"),
    ]


def _cost(row: Summary, stage: str) -> str:
    seconds, flops = (row.measures[f"{stage}_{unit}"].mean for unit in ("seconds", "flops"))
    return f"{seconds:.1f} s, {flops / 1e12:.2f} TFLOP"


def _share(row: Summary) -> float:
    return saved_share(row.measures["selection_seconds"].mean, row.measures["training_seconds"].mean, row.budget)


def _percent(found: Estimate) -> str:
    return f"{100 * found.mean:.1f}" + (f" ± {100 * found.half:.1f}" if found.n > 1 else "")


def _signed(found: Estimate) -> str:
    return f"{100 * found.mean:+.1f}" + (f" ± {100 * found.half:.1f}" if found.n > 1 else "")


def _difference(found: Estimate) -> str:
    return f"{found.mean:+.3f}" + (f" ± {found.half:.3f}" if found.n > 1 else "")


def _leakage(rows: Sequence[Summary]) -> str:
    """What joint training adds to the base: were it little, the base would have met the tasks before."""
    joint = next((row.measures for row in rows if row.strategy == "multitask"), {})
    if "zero_shot_average" not in joint or "zero_shot_nll" not in joint:
        return ""
    base, after = joint["zero_shot_average"], joint["average_accuracy"]
    return (
        f"The base scores {_percent(base)} on all tasks, jointly trained on everything {_percent(after)}; "
        f"NLL {joint['zero_shot_nll'].mean:.2f} and {joint['final_nll'].mean:.2f}."
    )


def _chart(rows: Sequence[Summary]) -> str:
    found = [row.measures["average_accuracy"] for row in rows]
    halves = [0.0 if np.isnan(one.half) else one.half for one in found]
    low = min(one.mean - half for one, half in zip(found, halves, strict=True))
    high = max(one.mean + half for one, half in zip(found, halves, strict=True))
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return _LEFT + (value - low) / span * (_WIDTH - _LEFT - 70)

    height = _ROW * len(rows) + 10
    parts = [f'<svg width="{_WIDTH}" height="{height}" role="img" aria-label="average accuracy by strategy">']
    for row in rows:
        if row.strategy == "random_replay":
            at = x(row.measures["average_accuracy"].mean)
            parts.append(f'<path d="M{at:.1f} 0V{height}" stroke="#999" stroke-dasharray="4 4"/>')
    for number, (row, one, half) in enumerate(zip(rows, found, halves, strict=True)):
        y, left, right = _ROW * number + 16, x(one.mean - half), x(one.mean + half)
        parts.append(f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(row.strategy)}</text>')
        parts.append(f'<path d="M{left:.1f} {y}H{right:.1f}" stroke="#0b6e99" stroke-width="3"/>')
        parts.append(f'<circle cx="{x(one.mean):.1f}" cy="{y}" r="4.5" fill="#0b6e99"/>')
        parts.append(f'<text x="{right + 10:.1f}" y="{y + 4}">{100 * one.mean:.1f}</text>')
    return "".join([*parts, "</svg>"])
