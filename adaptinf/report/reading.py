"""Reads a run directory (docs/architecture.md, "The run directory"): its artefacts alone, never the data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from adaptinf.errors import ArtefactError
from adaptinf.report.run_view import STAGES, Cluster, Cost, Decisions, Exhibit, PointMap, Record, RunView, Step, Task
from adaptinf.store import is_complete, read_json, read_table

QUARANTINE_SHOWN = 8


def read_run(run_dir: Path) -> RunView:
    """Read the artefacts of a run directory (docs/architecture.md, "The run directory"), finished or not.

    Raises:
        ArtefactError: the directory is no run directory, or one of its files cannot be read.
    """
    run_dir = Path(run_dir)
    if not any((run_dir / name).exists() for name in ("metrics.json", "stream.json", "config.yaml")):
        raise ArtefactError(
            "is not a run directory (it has no metrics.json, stream.json or config.yaml)",
            item=str(run_dir),
            remedy="give the directory that `adaptinf run --out DIR` wrote",
        )
    summary = _mapping(run_dir / "metrics.json")
    stream = _mapping(run_dir / "stream.json")
    config_text, config = _config(run_dir / "config.yaml")
    tasks = _tasks(stream, summary)
    steps = _steps(run_dir / "steps", tasks)
    quarantine, n_quarantined = _quarantine(run_dir / "quarantine.jsonl")
    return RunView(
        path=run_dir,
        strategy=str(summary.get("strategy") or config.get("strategy") or run_dir.name),
        tasks=tasks,
        steps=steps,
        finished=bool(summary),
        matrix=_matrix(summary.get("score_matrix"), [step.scores for step in steps], tasks),
        metrics=summary.get("metrics") or {},
        routing=summary.get("routing") or {},
        seconds_total=_number((summary.get("seconds") or {}).get("total")),
        config=config,
        config_text=config_text,
        seed=summary.get("seed", config.get("seed")),
        budget=summary.get("budget", config.get("budget")),
        versions=summary.get("versions") or {},
        identity=_identity(run_dir / "steps"),
        counters=summary.get("counters") or {},
        fingerprint=str(stream.get("fingerprint", "")),
        quarantine=quarantine,
        n_quarantined=max(n_quarantined, int(stream.get("quarantined") or 0)),
    )


def _tasks(stream: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[Task, ...]:
    rows = stream.get("tasks") or [{"name": name} for name in summary.get("tasks") or []]
    return tuple(
        Task(
            number=number,
            name=str(row["name"]),
            skill=str(row.get("skill") or ""),
            metric=str(row.get("metric") or ""),
            n_train=row.get("n_train"),
            n_test=row.get("n_test"),
        )
        for number, row in enumerate(rows, 1)
    )


def _steps(folder: Path, tasks: tuple[Task, ...]) -> tuple[Step, ...]:
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := re.fullmatch(r"(\d+)_(.+)", path.name):
            found.append(_step(path, int(match[1]), match[2], tasks))
    return tuple(sorted(found, key=lambda step: step.number))


def _step(path: Path, number: int, suffix: str, tasks: tuple[Task, ...]) -> Step:
    stages = frozenset(stage for stage in STAGES if is_complete(path / stage))
    task = next((task for task in tasks if task.name == suffix and number > 0), None)
    decisions = _decisions(path / "selection/decisions.parquet") if "selection" in stages else None
    summary = _mapping(path / "selection/summary.json") if "selection" in stages else {}
    points = path / "selection/map.parquet"
    return Step(
        number=number,
        label=suffix,
        task=task,
        stages=stages,
        costs={stage: _cost(_mapping(path / stage / "timing.json")) for stage in STAGES if stage in stages},
        scores=(_mapping(path / "evaluation/result.json").get("scores") or {}) if "evaluation" in stages else {},
        decisions=decisions,
        clusters=_clusters(decisions, summary) if decisions else (),
        elbow=tuple((int(row["k"]), _number(row["inertia"])) for row in summary.get("elbow") or []),
        points=_points(points) if "selection" in stages and points.exists() else None,
        kept_by_task=_kept(path / "pool/pool.parquet") if "pool" in stages else None,
        gallery=_gallery(path / "pool/gallery.parquet") if "pool" in stages else (),
        formulas=summary.get("formulas") or {},
        counters=summary.get("counters") or {},
        dropped=_dropped(path, stages),
    )


def _decisions(path: Path) -> Decisions:
    table = read_table(path)
    return Decisions(
        ids=_column(table, "id", path).to_pylist(),
        tasks=_column(table, "task", path).to_pylist(),
        cluster=np.asarray(_column(table, "cluster", path).to_pylist(), np.int64),
        scorer=[value or "" for value in _column(table, "scorer", path).to_pylist()],
        selected=np.asarray(_column(table, "selected", path).to_pylist(), bool),
    )


def _clusters(decisions: Decisions, summary: Mapping[str, Any]) -> tuple[Cluster, ...]:
    """Sizes, selections and scorers from the decisions; budgets and entropies from the summary."""
    described = {int(row["cluster"]): row for row in summary.get("clusters") or [] if "cluster" in row}
    clusters = []
    for number in sorted(set(decisions.cluster[decisions.cluster >= 0].tolist()) | described.keys()):
        members = np.flatnonzero(decisions.cluster == number)
        row = described.get(number, {})
        scorers = Counter(decisions.scorer[i] for i in members if decisions.scorer[i])
        clusters.append(
            Cluster(
                number=number,
                size=len(members),
                selected=int(decisions.selected[members].sum()),
                budget=row.get("budget"),
                scorer=str(row.get("scorer") or (scorers.most_common(1)[0][0] if scorers else "")),
                entropies={str(name): _number(bits) for name, bits in (row.get("entropies") or {}).items()},
            )
        )
    return tuple(clusters)


def _points(path: Path) -> PointMap:
    table = read_table(path)
    x, y = (np.asarray(_column(table, name, path).to_numpy(), np.float64) for name in "xy")
    return PointMap(_column(table, "id", path).to_pylist(), x, y)


def _kept(path: Path) -> dict[str, int]:
    table = read_table(path)
    tasks, kept = (_column(table, name, path).to_pylist() for name in ("task", "kept"))
    return dict(Counter(task for task, stays in zip(tasks, kept, strict=True) if stays))


def _gallery(path: Path) -> tuple[Exhibit, ...]:
    if not path.exists():
        return ()
    return tuple(
        Exhibit(
            record=Record(row["id"], row.get("prompt") or "", row.get("answer") or "", row.get("picture")),
            task=row["task"],
            decision=row["decision"],
            cluster=row["cluster"] if row["cluster"] is not None and row["cluster"] >= 0 else None,
            scorer=row["scorer"] or "",
            score=_number(row["score"]),
            reason=row.get("reason") or "",
            duplicate=_duplicate(row),
            max_similarity=_number(row["max_similarity"]),
        )
        for row in read_table(path).to_pylist()
    )


def _duplicate(row: Mapping[str, Any]) -> Record | None:
    if not row["duplicate_of"]:
        return None
    text = {name: row.get(f"duplicate_{name}") or "" for name in ("prompt", "answer")}
    return Record(row["duplicate_of"], text["prompt"], text["answer"], row.get("duplicate_picture"))


def _dropped(path: Path, stages: frozenset[str]) -> dict[str, int]:
    """How many samples the passes over the pool and over the training set left out, by reason."""
    reasons: Counter[str] = Counter()
    features = path / "features/dropped.parquet"
    if "features" in stages and features.exists():
        reasons.update(_column(read_table(features), "reason", features).to_pylist())
    if "training" in stages:
        reasons.update((_mapping(path / "training/counters.json").get("dropped") or {}).values())
    return dict(reasons)


def _matrix(stored: Any, rows: list[Mapping[str, float]], tasks: tuple[Task, ...]) -> NDArray[np.float64]:
    """The stored matrix; without one, a row for each evaluated step."""
    if stored is None:
        stored = [[row.get(task.name) for task in tasks] for row in rows if row]
    values = [[_number(value) for value in row] for row in stored]
    return np.asarray(values, np.float64).reshape(len(values), len(tasks))


def _cost(timing: Mapping[str, Any]) -> Cost:
    return Cost(
        seconds=_number(timing.get("seconds")),
        flops=_number(timing.get("flops")),
        items=int(timing.get("items") or 0),
        items_per_second=_number(timing.get("items_per_second")),
    )


def _identity(folder: Path) -> Mapping[str, Any]:
    """What made the last step's features: model, adapter, tokenizer, sketch."""
    for path in sorted(folder.glob("*/features/identity.json"), reverse=True):
        return _mapping(path).get("identity") or {}
    return {}


def _config(path: Path) -> tuple[str, Mapping[str, Any]]:
    if not path.exists():
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ArtefactError(
            f"cannot be read as YAML ({error})", item=str(path), remedy="restore it, or run again in a new directory"
        ) from error
    return text, config if isinstance(config, dict) else {}


def _quarantine(path: Path) -> tuple[tuple[Mapping[str, str], ...], int]:
    if not path.exists():
        return (), 0
    shown: list[Mapping[str, str]] = []
    count = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                continue
            count += 1
            if len(shown) < QUARANTINE_SHOWN:
                shown.append(_quarantine_entry(path, line))
    return tuple(shown), count


def _quarantine_entry(path: Path, line: str) -> Mapping[str, str]:
    try:
        entry = json.loads(line)
        return {key: str(entry.get(key, "")) for key in ("file", "line", "reason")}
    except (json.JSONDecodeError, AttributeError) as error:
        raise ArtefactError(
            f"has a line that is no JSON object ({error})", item=str(path), remedy="run again: it is written anew"
        ) from error


def _mapping(path: Path) -> Mapping[str, Any]:
    """A JSON object; empty where there is no file."""
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtefactError("is not a JSON object", item=str(path), remedy="delete its folder and run again")
    return value


def _column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise ArtefactError(f"has no column {name!r}", item=str(path), remedy="delete its folder and run again")
    return table[name]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")
