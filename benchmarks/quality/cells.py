"""Running one cell, and the row that it leaves."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from adaptinf import __version__
from adaptinf.config import RunConfig
from adaptinf.data import load_stream
from adaptinf.store import read_json, read_table
from adaptinf.tuning import run
from benchmarks.quality.streams import Cell, configuration


def run_cell(cell: Cell, data: Path, cache: Path, scratch: Path | None = None) -> dict[str, Any]:
    """Run a cell in a folder of its own that is removed afterwards, and return its row.

    ``average_accuracy`` and ``worst_task`` are of the final scores, ``learned_accuracy`` is the mean of the tasks'
    scores right after they arrived, ``forgetting`` what they lost since (Avalanche's), all in [0, 1]. ``final_scores``
    and ``zero_shot`` by task in the stream's order, ``tasks`` their names; ``strict`` the mean of the final scores
    without any tolerance for form; ``final_nll`` the mean of the answers' NLL, which no form enters, ``zero_shot_nll``
    that of the base (None unless it was evaluated on every task, as for joint training). ``near_duplicates``: the share
    of what was pruned for good whose group has a sample that stayed, None where nothing was. Seconds (of one core, so
    that work beside it is not in them) and operations are of all steps; selecting is features, selection and pruning
    together.
    """
    config = configuration(cell, data, cache)
    place = Path(tempfile.mkdtemp(dir=scratch, prefix="cell-"))
    try:
        run(config, place)
        found = read_json(place / "metrics.json")
        last = max((place / "steps").glob("*/evaluation/result.json"))
        strict = read_json(last)["strict"]
        return {
            **cell._asdict(),
            "average_accuracy": found["average_accuracy"],
            "forgetting": found["forgetting_avalanche"],
            "worst_task": found["worst_task"],
            "learned_accuracy": found["mean_fine_tune_accuracy"],
            "zero_shot_average": found["zero_shot_average"],
            "strict": float(np.mean([strict[name] for name in found["tasks"]])),
            "final_nll": float(np.mean(found["nll_matrix"][-1])),
            "zero_shot_nll": _mean(found["nll_matrix"][0]),
            "tasks": found["tasks"],
            "final_scores": found["score_matrix"][-1],
            "zero_shot": found["score_matrix"][0],
            "n_trained": int(sum(found["n_selected"])),
            "near_duplicates": _near_duplicates(place, config),
            "selection_seconds": found["cpu_seconds"]["choosing"],
            "training_seconds": found["cpu_seconds"]["training"],
            "selection_flops": found["flops"]["choosing"],
            "training_flops": found["flops"]["training"],
            "version": __version__,
        }
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _mean(values: list[float | None]) -> float | None:
    """None where one of them was not measured."""
    return None if None in values else float(np.mean(np.array(values, float)))


def _near_duplicates(place: Path, config: RunConfig) -> float | None:
    groups = {s.id: s.group for t in load_stream(config.data, seed=config.seed, quarantine=None) for s in t.train}
    kept: set[str] = set()
    dropped: set[str] = set()
    for file in sorted((place / "steps").glob("*/pool/pool.parquet")):
        table = read_table(file)
        stays = table["kept"].to_numpy(zero_copy_only=False)
        ids = np.array(table["id"].to_pylist())
        dropped |= set(ids[~stays].tolist())
        kept = set(ids[stays].tolist())
    if not dropped or not kept:  # a routed strategy keeps no pool
        return None
    with_kept = {groups[id] for id in kept if groups[id]}
    return sum(groups[id] in with_kept for id in dropped) / len(dropped)
