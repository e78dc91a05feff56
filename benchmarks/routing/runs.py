"""Whole runs of strategy switch: what its routes cost against the true ones, and what later tasks do to earlier."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from adaptinf.store import read_json, read_table
from adaptinf.tuning import run
from benchmarks.routing.tasks import configuration

TRAINING = {"epochs": 4.0, "batch_size": 32, "learning_rate": 5e-3}


def measure(data: Path, seed: int, cache: Path) -> dict[str, Any]:
    """One run over the five tasks, all scored after every arrival.

    ``share``: the final average in percent of the oracle's; ``changed``: of the requests that two steps sent through
    one and the same adapter, how many were answered otherwise by the later (each pair of neighbouring steps).
    """
    config = configuration(
        data, seed, cache=str(cache), training=TRAINING, evaluation={"tasks": "seen", "batch_size": 64}
    )
    with tempfile.TemporaryDirectory() as place:
        out = run(config, place)
        routing = read_json(out / "metrics.json")["routing"]
        answers = [_answers(step) for step in sorted((out / "steps").glob("*_*/evaluation")) if _routed(step)]
    same = changed = 0
    for one, other in pairwise(answers):
        for id in one.keys() & other.keys():
            if one[id][0] == other[id][0]:
                same, changed = same + 1, changed + (one[id][1] != other[id][1])
    return {
        "study": "runs",
        "seed": seed,
        "accuracy": 100 * routing["routing_accuracy"],
        "share": routing["oracle_share"],
        "compared": same,
        "changed": changed,
    }


def _routed(evaluation: Path) -> bool:
    return (evaluation / "routes.parquet").exists()


def _answers(evaluation: Path) -> dict[str, tuple[str | None, str]]:
    routed = read_table(evaluation / "routes.parquet")
    to = dict(zip(routed["id"].to_pylist(), routed["routed"].to_pylist(), strict=True))
    rows = read_table(evaluation / "predictions.parquet")
    return {id: (to[id], text) for id, text in zip(rows["id"].to_pylist(), rows["prediction"].to_pylist(), strict=True)}
