"""The tables of the report as plain rows: score matrix, task by task, metrics, clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptinf.report.colours import HEAT_LEVELS
from adaptinf.report.run_view import RunView, Step, Task


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map; ``level`` is None where nothing was measured."""

    value: float
    level: int | None
    outlined: bool
    note: str


@dataclass(frozen=True)
class Row:
    head: str
    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class TaskOutcome:
    """One task's scores: of the base model, just after training on it, at the best and at the end."""

    task: Task
    base: float
    learnt: float
    best: float
    final: float

    @property
    def gain(self) -> float:
        return self.final - self.base

    @property
    def forgotten(self) -> float:
        """Best score minus final one."""
        return self.best - self.final


def matrix_rows(run: RunView) -> list[Row]:
    """The score matrix: row 0 the base model, the diagonal outlined."""
    rows, labels = [], stage_labels(run)
    for stage, scores in enumerate(run.matrix):
        label = labels[stage]
        cells = []
        for task, score in zip(run.tasks, scores, strict=True):
            when = "base model" if stage == 0 else f"after step {stage} ({label})"
            value = "not measured" if np.isnan(score) else f"{score:.4f}"
            level = None if np.isnan(score) else level_of(score)
            cells.append(Cell(float(score), level, stage == task.number, f"{task.name}, {when}: {value}"))
        rows.append(Row("base" if stage == 0 else str(stage), label, cells))
    return rows


def stage_labels(run: RunView) -> list[str]:
    """A name for each stage of the whole stream: "base model", then the dataset that arrives."""
    return ["base model", *(task.name for task in run.tasks)]


def task_outcomes(run: RunView) -> list[TaskOutcome]:
    rows = len(run.matrix)
    return [
        TaskOutcome(
            task=task,
            base=_at(run, 0, task),
            learnt=_at(run, task.number, task),
            best=max((s for s in run.matrix[1:, task.number - 1].tolist() if not np.isnan(s)), default=np.nan),
            final=_at(run, rows - 1, task) if rows > 1 else np.nan,
        )
        for task in run.tasks
    ]


def averages(run: RunView) -> list[float]:
    """At each stage, the mean score over the tasks seen so far (all of them for the base model, if measured)."""
    means = []
    for stage, row in enumerate(run.matrix):
        seen = row[: stage or len(row)]
        means.append(float(seen.mean()) if len(seen) and not np.isnan(seen).any() else np.nan)
    return means


def entropy_levels(step: Step) -> dict[tuple[int, str], int | None]:
    """The shade of each (cluster, scorer) entropy: from the smallest to the largest of the step."""
    bits = {(cluster.number, name): value for cluster in step.clusters for name, value in cluster.entropies.items()}
    known = [value for value in bits.values() if not np.isnan(value)]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    return {
        key: None if np.isnan(value) else level_of(0.1 + 0.7 * ((value - low) / span if span else 0.5))
        for key, value in bits.items()
    }


@dataclass(frozen=True)
class Parts:
    """One bar of a step, made of tasks in the order of the stream."""

    step: int
    label: str
    parts: list[tuple[str, int]]

    @property
    def total(self) -> int:
        return sum(number for _, number in self.parts)


def selected_rows(run: RunView) -> list[Parts]:
    """What each step trained on, by task."""
    return _parts(run, lambda step: step.selected_by_task)


def pool_rows(run: RunView) -> list[Parts]:
    """What each step could choose from, by task."""
    return _parts(run, lambda step: step.pool_by_task)


@dataclass(frozen=True)
class Wins:
    """For each scorer the clusters it won at a step, and the share of the step's selected samples they supply."""

    step: Step
    cells: list[tuple[int, float]]


def scorer_names(run: RunView) -> list[str]:
    """Every scorer that a cluster chose from, in the order of the settings."""
    return list(dict.fromkeys(name for step in run.learning_steps for name in step.scorers))


def scorer_formula(run: RunView, name: str) -> str:
    """The formula of a scorer as the selector states it; empty if it does not."""
    return next((step.formulas[name] for step in run.learning_steps if name in step.formulas), "")


def scorer_wins(run: RunView) -> list[Wins]:
    """Empty for a strategy without scorers."""
    names = scorer_names(run)
    rows = []
    for step in run.learning_steps if names else ():
        total = sum(cluster.selected for cluster in step.clusters)
        won = {name: [cluster for cluster in step.clusters if cluster.scorer == name] for name in names}
        cells = [(len(won[name]), sum(cluster.selected for cluster in won[name]) / max(total, 1)) for name in names]
        if step.clusters:
            rows.append(Wins(step, cells))
    return rows


@dataclass(frozen=True)
class Routed:
    """The test requests of a task, as (number, share) for each of ``routed_to``."""

    task: str
    cells: tuple[tuple[int, float], ...]


def routed_to(run: RunView) -> list[str]:
    """The columns of the confusion table: the tasks in the order of their arrival, then the base where it answered."""
    answered = {name for row in run.routing["confusion"].values() for name, requests in row.items() if requests}
    tasks = [task.name for task in run.tasks]
    return [*tasks, *sorted(answered - set(tasks))]


def confusion_rows(run: RunView) -> list[Routed]:
    """The tasks that have test requests, in the order of their arrival."""
    found = []
    for task in run.tasks:
        row = run.routing["confusion"].get(task.name, {})
        if total := sum(row.values()):
            cells = tuple((row.get(name, 0), row.get(name, 0) / total) for name in routed_to(run))
            found.append(Routed(task.name, cells))
    return found


def level_of(share: float) -> int:
    """The shade of a share of one, of ``HEAT_LEVELS`` equal ones."""
    return round(min(max(share, 0.0), 1.0) * (HEAT_LEVELS - 1))


def best_of(values: Sequence[float], higher: bool | None) -> set[int]:
    """The places of the best of several values; none when they are all alike, or have no better and worse."""
    known = [value for value in values if not np.isnan(value)]
    if higher is None or len(known) < 2 or max(known) - min(known) < 1e-9:
        return set()
    best = max(known) if higher else min(known)
    return {place for place, value in enumerate(values) if abs(value - best) < 1e-9}


def _parts(run: RunView, of: Callable[[Step], Mapping[str, int]]) -> list[Parts]:
    order = [task.name for task in run.tasks]
    rows = []
    for step in run.learning_steps:
        counts = of(step)
        if counts:
            rows.append(Parts(step.number, step.label, [(name, counts[name]) for name in order if counts.get(name)]))
    return rows


def _at(run: RunView, stage: int, task: Task) -> float:
    return float(run.matrix[stage, task.number - 1]) if stage < len(run.matrix) else np.nan
