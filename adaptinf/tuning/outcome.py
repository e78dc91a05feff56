"""``metrics.json``: the score matrix, every metric, and what each stage cost, read back from the artefacts."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from adaptinf import __version__
from adaptinf.config import RunConfig
from adaptinf.data import TaskStream
from adaptinf.evaluation import continual_metrics, metric_versions
from adaptinf.store import is_complete, read_json, read_table

STAGES = ("features", "selection", "training", "routing", "evaluation", "pool")
PACKAGES = ("torch", "transformers", "peft", "numpy", "pyarrow", "tokenizers")


def outcome(config: RunConfig, stream: TaskStream, place: Path) -> dict[str, Any]:
    """Everything but ``seconds`` and ``cpu_seconds`` is a function of the configuration and the data; the latter are of
    all threads of the process, so that what other work on the machine takes is not in them."""
    names = [task.name for task in stream]
    folders = {0: "00_base", **{i: f"{i:02d}_{name}" for i, name in enumerate(names, start=1)}}
    steps = [place / "steps" / folder for folder in folders.values()]
    scores, nll = _matrix(steps, names, "scores"), _matrix(steps, names, "nll")
    metrics = continual_metrics(
        scores[1:], zero_shot=scores[0], reference="learned", weights=[len(task.test) for task in stream]
    )
    routing = steps[-1] / "evaluation" / "routing.json"
    n_pool, n_selected, n_after = zip(*(_counts(step) for step in steps[1:]), strict=True)
    return {
        "strategy": config.strategy,
        "tasks": names,
        "score_matrix": scores,
        "nll_matrix": nll,
        "metrics": metrics,
        **metrics,
        **({"routing": read_json(routing)} if routing.exists() else {}),
        **{unit: _costs(steps, unit, n_pool, n_selected) for unit in ("seconds", "cpu_seconds", "flops")},
        "n_selected": n_selected,
        "n_pool": n_pool,
        "n_pool_after": n_after,
        "budget": config.budget,
        "seed": config.seed,
        "counters": _counters(stream, steps[1:]),
        "versions": {
            "adaptinf": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            **metric_versions(),
        },
    }


def _matrix(steps: list[Path], names: list[str], key: str) -> np.ndarray:
    """Row 0 the base model, row i after step i; NaN where nothing was measured."""
    matrix = np.full((len(steps), len(names)), np.nan)
    for row, step in enumerate(steps):
        if is_complete(step / "evaluation"):
            found = read_json(step / "evaluation" / "result.json")[key]
            matrix[row] = [found[name] if found.get(name) is not None else np.nan for name in names]
    return matrix


def _counts(step: Path) -> tuple[int, int, int]:
    """Pool before the step, selected, pool after; zeros for a step that did not train."""
    if not is_complete(step / "pool"):
        return 0, 0, 0
    table = read_table(step / "pool" / "pool.parquet")
    return len(table), int(table["selected"].to_numpy().sum()), int(table["kept"].to_numpy().sum())


def _costs(steps: list[Path], unit: str, n_pool: tuple[int, ...], n_selected: tuple[int, ...]) -> dict[str, Any]:
    per_step = []
    for step in steps:
        row = {stage: read_json(step / stage / "timing.json")[unit] for stage in STAGES if is_complete(step / stage)}
        per_step.append({stage: row.get(stage, 0.0) for stage in STAGES})
    total = {stage: sum(row[stage] for row in per_step) for stage in STAGES}
    saving = _saving(per_step, n_pool, n_selected)
    return {"total": sum(total.values()), **total, "per_step": per_step, **saving}


def _saving(per_step: list[dict[str, float]], n_pool: tuple[int, ...], n_selected: tuple[int, ...]) -> dict[str, float]:
    """What choosing cost, and the training it saved: that of the unselected rest of each pool, at the cost of the
    samples that were trained on (an extrapolation)."""
    cost = sum(row["features"] + row["selection"] + row["pool"] for row in per_step[1:])
    saved = sum(
        row["training"] * (pool / selected - 1)
        for row, pool, selected in zip(per_step[1:], n_pool, n_selected, strict=True)
        if selected
    )
    return {"choosing": cost, "training_saved": saved}


def _counters(stream: TaskStream, steps: list[Path]) -> dict[str, Any]:
    """``dropped_in_testing``: test samples that the model cannot take, left out of all its scores. Which they are
    follows from the samples and the model's context alone, so they are the same at every step and in every strategy;
    scores of models with other contexts are of other samples where this differs."""
    counters = {"quarantined": stream.quarantined, "dropped": 0, "zeroed": 0, "skipped_in_training": 0}
    for step in steps:
        if is_complete(step / "features"):
            counters["dropped"] += len(read_table(step / "features" / "dropped.parquet"))
            counters["zeroed"] += len(read_json(step / "features" / "identity.json")["zeroed"])
        if is_complete(step / "training"):
            trained = read_json(step / "training" / "counters.json")
            counters["dropped"] += len(trained["dropped"])
            counters["skipped_in_training"] += len(trained["skipped"])
    tested = read_json(steps[-1] / "evaluation" / "result.json")  # of every task
    return {**counters, "dropped_in_testing": sum(tested["n_dropped"].values())}
