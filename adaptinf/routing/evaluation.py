"""A routed model on tasks: scores through the router's routes and the true ones, and how good the routes are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from adaptinf.data import Sample, TaskDataset
from adaptinf.data.stream import draw
from adaptinf.errors import EmptyTaskError
from adaptinf.evaluation import TaskResult, evaluate_task, summarise, write_results
from adaptinf.evaluation.routing import auroc, confusion, expected_calibration_error, oracle_gap, routing_accuracy
from adaptinf.progress import progress
from adaptinf.routing.dispatch import dispatched
from adaptinf.routing.model import RoutedModel
from adaptinf.routing.router import Routes
from adaptinf.store import write_json, write_table

ROUTES = pa.schema(
    {
        "id": pa.string(),
        "task": pa.string(),
        "routed": pa.string(),
        "confidence": pa.float64(),
        "novelty": pa.float64(),
    }
)
"""One row a request; ``routed`` is null where the base model answers."""


@dataclass(frozen=True)
class RoutedResults:
    """``results`` through the routes, ``oracle`` through each task's own adapter (the base where it has none), by task
    in order; ``routes`` as ``ROUTES``; ``names`` the tasks that the router knows; ``flops`` and ``seconds`` of routing
    all requests."""

    results: list[TaskResult]
    oracle: list[TaskResult]
    routes: pa.Table
    names: list[str]
    flops: float
    seconds: float

    def metrics(self) -> dict[str, Any]:
        """``routing_accuracy`` and its values by task, ``oracle_gap`` and ``oracle_share`` (the routed average in
        percent of the oracle's), ``ece`` of the confidence of routes taken, the ``confusion`` table, and what routing a
        request costs in ``flops_per_request``. Of the routes, those of requests of tasks that the router knows count.
        """
        known = [row for row in self.routes.to_pylist() if row["task"] in self.names]
        true, routed = [row["task"] for row in known], [row["routed"] for row in known]
        by_task = {
            name: routing_accuracy(
                [name] * true.count(name), [to for of, to in zip(true, routed, strict=True) if of == name]
            )
            for name in dict.fromkeys(true)
        }
        settled = [row for row in known if row["routed"] is not None]
        return {
            "routing_accuracy": routing_accuracy(true, routed),
            "routing_accuracy_by_task": by_task,
            "abstained": len(known) - len(settled),
            "ece": expected_calibration_error(
                [row["confidence"] for row in settled], [row["task"] == row["routed"] for row in settled]
            ),
            "confusion": confusion(true, routed, self.names),
            "flops_per_request": self.flops / max(1, len(self.routes)),
            **{
                f"oracle_{name}": value
                for name, value in oracle_gap(
                    [result.score for result in self.results], [result.score for result in self.oracle]
                ).items()
            },
        }


def evaluate_routed(
    model: RoutedModel,
    tasks: Iterable[TaskDataset],
    *,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    nll: bool = True,
    on_error: Literal["raise", "drop"] = "raise",
    prompts_together: int = 1,
) -> RoutedResults:
    """Route the test samples of every task, answer them through their routes and through the true ones.

    Samples with the same adapter are evaluated together; an answer through the right route is made once and counts in
    both. Arguments and errors as of :func:`adaptinf.evaluation.evaluate_task`.
    """
    results, oracle, routes = [], [], [ROUTES.empty_table()]
    flops, seconds = model.router.flops, 0.0
    for task in progress(list(tasks), "evaluation", unit="task"):
        samples, dropped = _usable(model, task, limit, seed, on_error)
        started = time.perf_counter()
        found = model.router.predict(samples)
        seconds += time.perf_counter() - started
        to = [name if name in model.adapters.names else None for name in found.tasks]
        own = task.name if task.name in model.adapters.names else None
        evaluate = {"batch_size": batch_size, "seed": seed, "nll": nll, "prompts_together": prompts_together}
        parts = {name: _through(model, task, [s for s, t in zip(samples, to, strict=True) if t == name], name, evaluate)
                 for name in dict.fromkeys(to)}  # fmt: skip
        lost = [sample for sample, name in zip(samples, to, strict=True) if name != own]
        right = [parts[own]] if own in parts else []
        results.append(_joined(task, samples, list(parts.values()), dropped))
        oracle.append(
            _joined(task, samples, [*right, *([_through(model, task, lost, own, evaluate)] if lost else [])], dropped)
        )
        routes.append(_table(samples, task.name, to, found))
    return RoutedResults(
        results, oracle, pa.concat_tables(routes), list(model.router.names), model.router.flops - flops, seconds
    )


def write_routed(directory: Path, found: RoutedResults) -> None:
    """What :func:`write_results` writes of the routed answers, ``routing.json`` and ``routes.parquet``."""
    write_results(directory, found.results)
    write_json(directory / "routing.json", found.metrics())
    write_table(directory / "routes.parquet", found.routes)


def abstention_auroc(model: RoutedModel, inside: Sequence[Sample], outside: Sequence[Sample]) -> float:
    """How well the router's novelty tells requests of its tasks from others: the area under the ROC, 0.5 for chance."""
    novelty = model.router.predict([*inside, *outside]).novelty
    return auroc(novelty, np.arange(len(novelty)) >= len(inside))


def _usable(
    model: RoutedModel, task: TaskDataset, limit: int | None, seed: int, on_error: Literal["raise", "drop"]
) -> tuple[list[Sample], int]:
    drawn = draw(task.test, limit, seed)
    fitting, dropped = model.lm.encoder.encode_all(drawn, on_error=on_error)
    if not fitting:
        reason = dropped[0][1] if dropped else "has no test sample"
        raise EmptyTaskError(f"no test sample can be used: {reason}", item=task.name, remedy="shorten or add some")
    usable = {one.id for one in fitting}
    return [sample for sample in drawn if sample.id in usable], len(dropped)


def _through(
    model: RoutedModel, task: TaskDataset, samples: Sequence[Sample], name: str | None, how: dict[str, Any]
) -> TaskResult:
    adapters = model.adapters.fetch([name] if name is not None else [])
    with dispatched(model.lm.base, [name], adapters):
        return evaluate_task(model.lm, replace(task, test=tuple(samples)), **how)


def _joined(task: TaskDataset, samples: Sequence[Sample], parts: Sequence[TaskResult], dropped: int) -> TaskResult:
    """One result of the parts' rows, in the order of the samples."""
    rows = pa.concat_tables([part.predictions for part in parts])
    place = {id: i for i, id in enumerate(rows["id"].to_pylist())}
    ordered = rows.take([place[sample.id] for sample in samples])
    return summarise(task.name, task.metric, ordered, dropped, sum(part.flops for part in parts))


def _table(samples: Sequence[Sample], task: str, to: Sequence[str | None], found: Routes) -> pa.Table:
    columns = {
        "id": [sample.id for sample in samples],
        "task": [task] * len(samples),
        "routed": list(to),
        "confidence": found.confidence,
        "novelty": found.novelty,
    }
    return pa.table(columns, schema=ROUTES)
