"""The comparison of runs as plain text, for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from adaptinf.report.costs import CHOOSING, costs
from adaptinf.report.metrics import metrics_of, value_of
from adaptinf.report.reading import read_run
from adaptinf.report.run_view import RunView
from adaptinf.report.tables import best_of, task_outcomes
from adaptinf.report.units import bare_percent, count, duration


def format_table(runs: Sequence[RunView | Path]) -> str:
    """One column a run, one row a metric, a task and a cost; ``*`` marks the best of several.

    Raises:
        ArtefactError: a directory is no run directory.
    """
    views = [run if isinstance(run, RunView) else read_run(run) for run in runs]
    head = [
        "",
        *(label if run.finished else f"{label}, unfinished" for label, run in zip(labels(views), views, strict=True)),
    ]
    sections = [_metric_rows(views), _task_rows(views), _cost_rows(views)]
    widths = [max(_width(row[column]) for rows in ([head], *sections) for row in rows) for column in range(len(head))]
    rule = "  ".join("-" * width for width in widths)
    lines = [_line(head, widths)]
    for rows in sections:
        lines += [rule, *(_line(row, widths) for row in rows)] if rows else []
    return "\n".join(lines).replace("\u00a0", " ")


def labels(runs: Sequence[RunView]) -> list[str]:
    """A name for each run: its strategy, with the seed or else the directory where that is not enough."""
    for names in (
        [run.strategy for run in runs],
        [f"{run.strategy} (seed {run.seed})" for run in runs],
        [f"{run.strategy} ({run.path.name})" for run in runs],
    ):
        if len(set(names)) == len(names):
            return names
    return [f"{run.strategy} ({place})" for place, run in enumerate(runs, 1)]


def _metric_rows(runs: list[RunView]) -> list[list[str]]:
    rows = []
    for metric in metrics_of(runs):
        values = [value_of(run, metric.name) for run in runs]
        if metric.main and any(value == value for value in values):
            texts = [f"{metric.text(value)} {metric.unit}" if value == value else "-" for value in values]
            rows.append(_marked(metric.label, texts, best_of(values, metric.higher)))
    return rows


def _task_rows(runs: list[RunView]) -> list[list[str]]:
    names = list(dict.fromkeys(task.name for run in runs for task in run.tasks))
    finals = [{outcome.task.name: outcome.final for outcome in task_outcomes(run)} for run in runs]
    rows = []
    for name in names:
        values = [final.get(name, float("nan")) for final in finals]
        texts = [f"{bare_percent(value)} %" if value == value else "-" for value in values]
        rows.append(_marked(f"final score: {name}", texts, best_of(values, True)))
    return rows


def _cost_rows(runs: list[RunView]) -> list[list[str]]:
    seconds = [costs(run, "seconds") for run in runs]
    trained = [[step.n_selected or 0 for step in run.learning_steps] for run in runs]
    return [
        ["samples trained on", *(f"{count(sum(numbers))}  " for numbers in trained)],
        [f"choosing ({' + '.join(CHOOSING)})", *(f"{duration(cost.choosing)}  " for cost in seconds)],
        ["training", *(f"{duration(cost.training)}  " for cost in seconds)],
        ["training saved (extrapolated)", *(f"{duration(cost.saved)}  " for cost in seconds)],
    ]


def _marked(label: str, texts: list[str], best: set[int]) -> list[str]:
    return [label, *(f"{text} *" if place in best else f"{text}  " for place, text in enumerate(texts))]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = ((_printable(cell), width - _width(cell)) for cell, width in zip(cells, widths, strict=True))
    return "  ".join([first[0] + " " * first[1], *(" " * gap + cell for cell, gap in rest)]).rstrip()


def _width(text: str) -> int:
    """Columns of a terminal: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in _printable(text)
    )


def _printable(text: str) -> str:
    """Names come from data: a control sequence in one must not reach the terminal."""
    return "".join(character if character.isprintable() or character == "\u00a0" else "\ufffd" for character in text)
