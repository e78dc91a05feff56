"""One table of numbers on a routed model: how well it routes, what wrong routes cost, and what routing costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from transformers import GenerationConfig

from adaptinf.config import RunConfig
from adaptinf.data import Sample, TaskStream
from adaptinf.errors import EmptyTaskError
from adaptinf.routing.dispatch import dispatched
from adaptinf.routing.evaluation import abstention_auroc, evaluate_routed
from adaptinf.routing.model import RoutedModel

TIMED, GENERATED = 8, 32
"""Requests whose routing and answering are timed one by one, and the tokens of each answer."""


def measure_routing(
    model: RoutedModel, stream: TaskStream, outside: Sequence[Sample], config: RunConfig
) -> dict[str, Any]:
    """Score a routed model on the test samples of the tasks that its router knows.

    ``outside``: requests that belong to none of them; without any, the stream's other tasks are taken. Settings are
    those of ``config.evaluation``, ``config.seed`` and ``config.model.on_long``.

    Returns a mapping that can be written as JSON: what :meth:`RoutedResults.metrics` gives; ``scores`` and ``oracle``
    by task with their means ``average`` and ``oracle_average``; ``abstention_auroc``, how well the router's novelty
    tells ``outside`` from the rest (None without any); ``ms_per_request``, the median time of routing a single request,
    and ``ms_per_32_tokens``, that of generating 32 tokens through its adapter (None where no prompt leaves room).

    Raises EmptyTaskError where the router knows no task of the stream.
    """
    known = [task for task in stream if task.name in model.router.names]
    if not known:
        raise EmptyTaskError(
            f"has none of the router's tasks ({', '.join(model.router.names)})", item="data", remedy="name their data"
        )
    inside = [sample for task in known for sample in task.test]
    strange = outside or [sample for task in stream if task not in known for sample in task.test]
    evaluation = config.evaluation
    found = evaluate_routed(
        model,
        known,
        limit=evaluation.limit,
        batch_size=evaluation.batch_size,
        seed=config.seed,
        nll=evaluation.nll,
        on_error=config.model.on_long,
    )
    scores = {result.name: result.score for result in found.results}
    oracle = {result.name: result.score for result in found.oracle}
    room = model.lm.encoder.max_length - GENERATED
    fitting = [
        sample
        for sample in inside
        if sample.task in model.adapters.names and len(model.lm.encoder.encode_prompt(sample).input_ids) <= room
    ]
    timed = fitting[:: max(1, len(fitting) // TIMED)][:TIMED]
    return {
        **found.metrics(),
        "scores": scores,
        "average": sum(scores.values()) / len(scores),
        "oracle": oracle,
        "oracle_average": sum(oracle.values()) / len(oracle),
        "abstention_auroc": abstention_auroc(model, inside, strange) if strange else None,
        "ms_per_request": _median_ms(timed, lambda one: model.router.predict([one])),
        "ms_per_32_tokens": _median_ms(timed, lambda one: _generate(model, one, one.task)),
    }


def _generate(model: RoutedModel, request: Sample, task: str | None) -> None:
    """``GENERATED`` tokens, wherever the answer would have ended."""
    lm = model.lm
    batch = lm.to_device(lm.encoder.collate([lm.encoder.encode_prompt(request)]))
    length = GenerationConfig(
        do_sample=False,
        min_new_tokens=GENERATED,
        max_new_tokens=GENERATED,
        eos_token_id=lm.encoder.stop_ids,
        pad_token_id=lm.encoder.pad_id,
    )
    with dispatched(lm.base, [task], model.adapters.fetch([task] if task is not None else [])):
        lm.base.generate(**batch, generation_config=length)


def _median_ms(requests: Sequence[Sample], work: Callable[[Sample], object]) -> float | None:
    if not requests:
        return None
    work(requests[0])  # whatever is made at the first call is made now
    times = []
    for request in requests:
        started = time.perf_counter()
        work(request)
        times.append(time.perf_counter() - started)
    return 1000 * median(times)
