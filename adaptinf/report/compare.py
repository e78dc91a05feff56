"""Runs as chapters of one page, and what is shown of several runs at once; a page of one run has one chapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from adaptinf.report.charts import Line, line_chart
from adaptinf.report.colours import categorical
from adaptinf.report.costs import Unit, costs
from adaptinf.report.metrics import Metric, is_measured, value_of
from adaptinf.report.run_view import RunView
from adaptinf.report.tables import averages, best_of, stage_labels, task_outcomes


@dataclass(frozen=True)
class Chapter:
    """One run in the page: its label, and its place, which decides the style of its curves and its anchors."""

    run: RunView
    label: str
    place: int

    @property
    def prefix(self) -> str:
        return f"run{self.place + 1}"

    @cached_property
    def task_numbers(self) -> dict[str, int]:
        return {task.name: task.number for task in self.run.tasks}

    @cached_property
    def task_colours(self) -> dict[str, str]:
        return dict(zip(self.task_numbers, categorical(len(self.task_numbers)), strict=True))


@dataclass(frozen=True)
class FinalRow:
    """One task's final score in every run."""

    task: str
    base: float
    values: list[float]
    best: set[int]


def task_names(chapters: Sequence[Chapter]) -> list[str]:
    """The tasks of all runs, in the order of the first."""
    return list(dict.fromkeys(name for chapter in chapters for name in chapter.task_numbers))


def curves(chapters: Sequence[Chapter], task: str | None, width: int = 196, height: int = 126) -> Markup:
    """One curve a run: a task's score, or (None) the average over the tasks that have arrived."""
    lines = []
    for chapter in chapters:
        if task is None:
            values = averages(chapter.run)
        elif task in chapter.task_numbers:
            values = chapter.run.matrix[:, chapter.task_numbers[task] - 1].tolist()
        else:
            values = []
        lines.append(Line(chapter.label, values, chapter.place))
    stages = max((stage_labels(chapter.run) for chapter in chapters), key=len)
    learnt = {chapter.task_numbers.get(task) for chapter in chapters} if task is not None else {None}
    return line_chart(lines, stages, width=width, height=height, learnt=learnt.pop() if len(learnt) == 1 else None)


def final_rows(chapters: Sequence[Chapter]) -> list[FinalRow]:
    outcomes = [{outcome.task.name: outcome for outcome in task_outcomes(chapter.run)} for chapter in chapters]
    rows = []
    for name in task_names(chapters):
        found = [outcome.get(name) for outcome in outcomes]
        values = [row.final if row else math.nan for row in found]
        bases = [row.base for row in found if row and not math.isnan(row.base)]
        rows.append(FinalRow(name, bases[0] if bases else math.nan, values, best_of(values, True)))
    return rows


def measured(chapters: Sequence[Chapter], metric: Metric) -> bool:
    return any(is_measured(chapter.run, metric) for chapter in chapters)


def best_metric(chapters: Sequence[Chapter], metric: Metric) -> set[int]:
    """The places of the runs with the best value."""
    return best_of([value_of(chapter.run, metric.name) for chapter in chapters], metric.higher)


def largest_cost(chapters: Sequence[Chapter], unit: Unit) -> float:
    """The length of the longest cost bar; 1 where nothing was measured."""
    every = [costs(chapter.run, unit) for chapter in chapters]
    lengths = [length for cost in every for length in (cost.choosing + cost.training, cost.training_whole_pool)]
    return max((length for length in lengths if length > 0), default=1.0)
