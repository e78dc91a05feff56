"""Every router over every encoder: accuracy, calibration, abstention, other wordings, and the cost of a route."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from adaptinf.config import ModelConfig
from adaptinf.evaluation.routing import auroc, expected_calibration_error, routing_accuracy
from adaptinf.models import load_model
from adaptinf.routing.configured import ConfiguredRouting
from benchmarks.routing.tasks import MODEL, WORDINGS, configuration, outside, reworded, stream

ROUTERS: tuple[dict[str, Any], ...] = (
    {"router": "switch", "encoder": "sketch"},
    {"router": "switch", "encoder": "sketch", "exemplars": 1},
    {"router": "switch", "encoder": "sketch", "exemplars": 50},
    {"router": "switch", "encoder": "hidden"},
    {"router": "switch", "encoder": "hidden", "pooling": "mean"},
    {"router": "anchor", "encoder": "sketch"},
    {"router": "anchor", "encoder": "hidden", "pooling": "mean"},
    {"router": "autoencoder", "encoder": "sketch"},
    {"router": "autoencoder", "encoder": "hidden", "pooling": "mean"},
    {"router": "centroid", "encoder": "sketch"},
    {"router": "centroid", "encoder": "hidden", "pooling": "mean"},
)
TIMED = 20


def measure(data: Path, seed: int, cache: Path) -> Iterator[dict[str, Any]]:
    """A row for each of ``ROUTERS``: the tasks are added in order, then the test requests of all are routed.

    ``auroc`` of the novelty of requests of other tasks, ``ms`` the median time of routing one request on one thread.
    """
    lm = load_model(ModelConfig(name=str(data / MODEL), on_long="drop"), cache=cache)
    tasks, foreign = stream(data, seed), outside(data, seed)
    fits = {one.id for task in tasks for one in lm.encoder.encode_all(task.test, on_error="drop")[0]}
    requests = [sample for task in tasks for sample in task.test if sample.id in fits]
    true = [sample.task for sample in requests]
    for settings in ROUTERS:
        router = ConfiguredRouting(configuration(data, seed, routing=settings), lm, {}).new()
        for task in tasks:
            router.add_task(task.name, task.train)
        spent = router.flops
        found = {name: router.predict([reworded(s, how) for s in requests]) for name, how in WORDINGS.items()}
        flops = (router.flops - spent) / (len(requests) * len(WORDINGS))
        plain = found["as trained"]
        novelty = np.concatenate([plain.novelty, router.predict(foreign).novelty])
        yield {
            "study": "routers",
            "seed": seed,
            **settings,
            "accuracy": {name: 100 * routing_accuracy(true, routes.tasks) for name, routes in found.items()},
            "ece": expected_calibration_error(
                plain.confidence, [one == other for one, other in zip(true, plain.tasks, strict=True)]
            ),
            "auroc": auroc(novelty, np.arange(len(novelty)) >= len(requests)),
            "flops": flops,
            "ms": _ms(router, requests),
        }


def _ms(router: Any, requests: list[Any]) -> float:
    times = []
    for request in requests[:: max(1, len(requests) // TIMED)]:
        started = time.perf_counter()
        router.predict([request])
        times.append(1000 * (time.perf_counter() - started))
    return median(times)
