"""Evaluation of a model on tasks: greedy answers, their scores, and the likelihood of the right answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from adaptinf.data.stream import draw
from adaptinf.errors import ArtefactError, ConfigError, DataError, EmptyTaskError, SampleTooLongError
from adaptinf.evaluation.metrics import get_metric, metric_versions, score
from adaptinf.evaluation.together import LABEL_TOKENS, apart, together
from adaptinf.progress import progress
from adaptinf.store import read_json, read_table, write_json, write_table

if TYPE_CHECKING:
    from adaptinf.data import Sample, TaskDataset
    from adaptinf.models import LanguageModel

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "task": pa.string(),
        "prediction": pa.string(),
        "answer": pa.string(),
        "score": pa.float64(),
        "strict": pa.float64(),
        "normalised": pa.float64(),
        "parsed": pa.bool_(),
        "nll": pa.float64(),
    }
)
"""One row a test sample. ``parsed``: the prediction holds an answer in the form that the metric needs."""


@dataclass(frozen=True)
class TaskResult:
    """One task's result: means over its ``n`` test samples.

    ``score`` by the task's ``metric``; ``strict`` and ``normalised`` the exact matches before and after normalisation
    (what lies between them is format, not knowledge); ``nll`` the mean over samples of the answers' mean negative
    log-likelihood in nats, which no format can disturb (NaN if not measured); ``n_unparsable`` counts predictions
    without an answer in the form that the metric needs, ``n_dropped`` samples left out because the model cannot take
    them, ``flops`` what it cost by the counting model.
    """

    name: str
    metric: str
    score: float
    strict: float
    normalised: float
    nll: float
    n: int
    n_unparsable: int
    n_dropped: int
    flops: float
    predictions: pa.Table


def evaluate_task(
    lm: LanguageModel,
    task: TaskDataset,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    nll: bool = True,
    on_error: Literal["raise", "drop"] = "raise",
    prompts_together: int = 1,
) -> TaskResult:
    """Answer the test samples greedily and score the answers; with ``nll``, also the right answers' likelihood.

    ``limit`` takes at most so many samples, drawn by ``seed`` and the samples' ids alone. The counted ``flops`` take
    the generation for one pass over prompt and right answer. ``on_error=drop`` leaves out samples that the model cannot
    take, such as those longer than its context; the same ones at every step. ``prompts_together`` asks so many samples
    in one prompt (:func:`adaptinf.evaluation.together.together`); an answer that cannot be told apart is empty and
    counts as unparsable. The likelihood stays that of each right answer after its own prompt.

    Raises:
        EmptyTaskError: the task has no test sample, or all are dropped.
        ConfigError: there is no such metric, a number is less than one, or prompts do not fit together.
        DataError: a right answer lacks what the metric compares, such as a box; or see ``together``.
        NonFiniteError: by the model's passes, naming the sample.
        SampleTooLongError, EmptyAnswerError, ImageError: ``on_error=raise``, naming the sample.
    """
    metric = get_metric(task.metric)
    if not task.test:
        raise EmptyTaskError("has no test sample", item=task.name, remedy="give test files or a test_fraction")
    if limit is not None and limit < 1:
        raise ConfigError(f"must be >= 1, got {limit}", item="evaluation.limit", remedy="leave it out to use all")
    if prompts_together < 1:
        raise ConfigError(f"must be >= 1, got {prompts_together}", item="evaluation.prompts_together")
    drawn = draw(task.test, limit, seed)
    for sample in drawn:
        if metric.parse(sample.answer) is None:
            raise DataError(
                f"its answer {sample.answer!r} holds nothing that {task.metric} compares",
                item=sample.id,
                remedy="choose another metric for this task, or correct the answer",
            )
    fitting, dropped = lm.encoder.encode_all(drawn, on_error=on_error)
    if not fitting:
        raise EmptyTaskError(f"no test sample can be used: {dropped[0][1]}", item=task.name, remedy="shorten them")
    usable = {one.id for one in fitting}
    samples = [sample for sample in drawn if sample.id in usable]
    answers = [sample.answer for sample in samples]
    groups = [samples[i : i + prompts_together] for i in range(0, len(samples), prompts_together)]
    asked = [together(group) for group in groups]
    lengths = _lengths(lm, asked) if prompts_together > 1 or not nll else []
    said = lm.generate(
        asked,
        max_new_tokens=prompts_together * (task.max_new_tokens + LABEL_TOKENS * (prompts_together > 1)),
        batch_size=batch_size,
        progress=f"{task.name}: answers",
    )
    predictions = [one for text, group in zip(said, groups, strict=True) for one in apart(text, len(group))]
    losses, flops = _likelihood(lm, samples, task.name) if nll else (np.full(len(samples), np.nan), 0.0)
    generation = lm.flops(lengths) if lengths else flops
    sources = [_source(sample) for sample in samples] if metric.needs_source else None
    table = pa.table(
        {
            "id": [sample.id for sample in samples],
            "task": [task.name] * len(samples),
            "prediction": predictions,
            "answer": answers,
            "score": score(task.metric, predictions, answers, sources=sources),
            "strict": score("exact_match", predictions, answers),
            "normalised": score("accuracy", predictions, answers),
            "parsed": [metric.parse(prediction) is not None for prediction in predictions],
            "nll": losses,
        },
        schema=SCHEMA,
    )
    return summarise(task.name, task.metric, table, len(dropped), generation + flops)


def evaluate_stream(
    lm: LanguageModel,
    tasks: Iterable[TaskDataset],
    *,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    nll: bool = True,
    on_error: Literal["raise", "drop"] = "raise",
    prompts_together: int = 1,
) -> list[TaskResult]:
    """:func:`evaluate_task` of each task, in order."""
    return [
        evaluate_task(
            lm,
            task,
            limit=limit,
            batch_size=batch_size,
            seed=seed,
            nll=nll,
            on_error=on_error,
            prompts_together=prompts_together,
        )
        for task in progress(list(tasks), "evaluation", unit="task")
    ]


def write_results(directory: Path, results: Sequence[TaskResult]) -> None:
    """``result.json`` (by field, then task) and ``predictions.parquet`` of one evaluation."""
    fields: dict[str, Any] = {
        "metric": {result.name: result.metric for result in results},
        "scores": {result.name: result.score for result in results},
        "strict": {result.name: result.strict for result in results},
        "normalised": {result.name: result.normalised for result in results},
        "nll": {result.name: result.nll for result in results},
        "n": {result.name: result.n for result in results},
        "n_unparsable": {result.name: result.n_unparsable for result in results},
        "n_dropped": {result.name: result.n_dropped for result in results},
        "flops": {result.name: result.flops for result in results},
        "order": [result.name for result in results],
        "versions": metric_versions(),
    }
    write_json(directory / "result.json", fields)
    tables = [SCHEMA.empty_table(), *(result.predictions for result in results)]
    write_table(directory / "predictions.parquet", pa.concat_tables(tables))


def read_results(directory: Path) -> list[TaskResult]:
    """What :func:`write_results` wrote; raises ArtefactError if the two files do not belong together."""
    found = read_json(directory / "result.json")
    table = read_table(directory / "predictions.parquet")
    if table.schema.names != SCHEMA.names:
        raise ArtefactError(
            f"has the columns {table.schema.names}, expected {SCHEMA.names}",
            item=str(directory),
            remedy="evaluate again",
        )
    tasks = np.array(table["task"].to_pylist(), dtype=object)
    results = []
    for name in found["order"]:
        rows = table.filter(pa.array(tasks == name))
        if len(rows) != found["n"][name]:
            raise ArtefactError(
                f"holds {len(rows)} predictions of {name}, result.json counts {found['n'][name]}",
                item=str(directory),
                remedy="evaluate again",
            )
        results.append(summarise(name, found["metric"][name], rows, found["n_dropped"][name], found["flops"][name]))
    return results


def summarise(name: str, metric: str, table: pa.Table, n_dropped: int, flops: float) -> TaskResult:
    """The result of a task from its rows (``SCHEMA``)."""
    columns = ("score", "strict", "normalised", "nll")
    means = {column: math.fsum(table[column].to_pylist()) / len(table) for column in columns}
    n_unparsable = table["parsed"].to_pylist().count(False)
    return TaskResult(
        name, metric, **means,
        n=len(table), n_unparsable=n_unparsable, n_dropped=n_dropped, flops=flops, predictions=table,
    )  # fmt: skip


def _lengths(lm: LanguageModel, asked: Sequence[Sample]) -> list[int]:
    """Tokens of each prompt with its right answer."""
    try:
        return [len(lm.encoder.encode(sample).input_ids) for sample in asked]
    except SampleTooLongError as error:  # each of them alone fits
        raise ConfigError(
            f"these do not fit into one prompt ({error.problem})",
            item=error.item,
            remedy="lower evaluation.prompts_together",
        ) from error


def _likelihood(lm: LanguageModel, samples: Sequence[Sample], label: str) -> tuple[np.ndarray, float]:
    """Mean NLL of each answer, and the pass's FLOPs."""
    from adaptinf.capture import extract

    features = extract(lm, samples, sketch=None, scores=("nll",), hidden=None, description=f"{label}: likelihood")
    by_id = dict(zip(features.ids, features.scores["nll"], strict=True))
    return np.array([by_id[sample.id] for sample in samples]), features.flops


def _source(sample: Sample) -> str:
    """The text to rewrite: ``meta["source_text"]``, else the prompt without ``meta["instruction"]``, else without its
    first line, the instruction."""
    if "source_text" in sample.meta:
        return str(sample.meta["source_text"])
    if "instruction" in sample.meta:
        return sample.prompt.removeprefix(str(sample.meta["instruction"])).strip()
    _, _, text = sample.prompt.partition("\n")
    return text or sample.prompt
