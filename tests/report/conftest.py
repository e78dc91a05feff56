"""Fake but complete run directories, written as the loop writes them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pyarrow as pa
import pytest
import yaml

from adaptinf.evaluation import continual_metrics
from adaptinf.store import create, write_json, write_table

STAGES = ("features", "selection", "training", "evaluation", "pool")
TASKS = ("shapes", "digits", "translation", "difference", "captions")
SCORERS = ("perplexity", "el2n", "entropy", "image_grounding")
ELBOW = ((5, 100.0), (10, 20.0), (15, 21.0), (20, 10.0))
WORDS = {
    "shapes": ("What shape is in the image?", "triangle"),
    "digits": ("Which digit is written here?", "7"),
    "translation": ("Translate the name of the language into Arabic: Finnish", "الفنلندية"),
    "difference": ("What differs between the two pictures?", "The second one has a blue circle."),
    "captions": ("画像に何が写っていますか？", "緑色の四角形があります。"),
}


@dataclass
class FakeRun:
    """What the written files must turn into."""

    path: Path
    tasks: list[str]
    matrix: np.ndarray
    metrics: dict[str, Any] = field(default_factory=dict)
    n_pool: list[int] = field(default_factory=list)
    n_selected: list[int] = field(default_factory=list)
    n_kept: list[int] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRun]:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # durability is tested elsewhere, and waits for the disk

    def make(name: str = "paper", **options: Any) -> FakeRun:
        return write_run(tmp_path / name, **{"strategy": name, **options})

    return make


def write_run(
    path: Path,
    *,
    strategy: str = "paper",
    tasks: tuple[str, ...] = TASKS,
    clusters: int = 6,
    per_task: int = 200,
    gallery: int = 3,
    quality: float = 0.85,
    seed: int = 0,
    prune: bool = True,
    arrows: int | None = None,
    texts: dict[str, tuple[str, str]] | None = None,
    quarantine: tuple[tuple[str, int, str], ...] = (),
) -> FakeRun:
    """``arrows``: how many arrows were made before the run was killed (None: all of them, and metrics.json)."""
    rng = np.random.default_rng(seed + len(strategy))
    path.mkdir(parents=True)
    run = FakeRun(path, list(tasks), _matrix(rng, len(tasks), quality))
    clusters = clusters if strategy not in ("random_replay", "sequential", "multitask") else 0
    config = {
        "strategy": strategy,
        "budget": 0.25,
        "seed": seed,
        "model": {"name": "small-vlm", "on_long": "raise"},
        "features": {"on_nonfinite": "drop"},
        "training": {"on_nonfinite": "raise"},
        "pruning": {"pool_budget": 0.5 if prune else None},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    about = [
        {
            "name": t,
            "skill": ("recognition", "language", "comparison")[i % 3],
            "metric": "exact_match",
            "n_train": per_task,
            "n_test": 50,
        }
        for i, t in enumerate(tasks)
    ]
    write_json(path / "stream.json", {"tasks": about, "fingerprint": "f" * 64, "quarantined": len(quarantine)})
    entries = [{"file": file, "line": line, "reason": reason} for file, line, reason in quarantine]
    (path / "quarantine.jsonl").write_text("".join(f"{_json(entry)}\n" for entry in entries), encoding="utf-8")
    left = 10**9 if arrows is None else arrows
    _evaluation(path / "steps/00_base/evaluation", run, 0, rng)
    left -= 1
    pool: list[tuple[str, str]] = []
    for number, task in enumerate(tasks, 1):
        pool += [(f"{task}/{i:05d}", task) for i in range(per_task)]
        pool = _step(
            path / f"steps/{number:02d}_{task}", run, number, pool, left, rng, strategy, clusters, gallery, prune, texts
        )
        left -= len(STAGES)
        if left <= 0:
            break
    if left > 0:
        _outcome(run, strategy, seed, len(quarantine))
    return run


def _matrix(rng: np.random.Generator, n: int, quality: float) -> np.ndarray:
    matrix = np.full((n + 1, n), np.nan)
    for j in range(n):
        for i in range(n + 1):
            learnt = quality - 0.02 * max(i - j - 1, 0) if i > j else 0.15 + 0.02 * i
            matrix[i, j] = np.clip(learnt + rng.normal(0, 0.03), 0, 1).round(4)
    return matrix


def _step(place, run, number, pool, left, rng, strategy, clusters, gallery, prune, texts):
    done = STAGES[: max(min(left, len(STAGES)), 0)]
    n = len(pool)
    ids, of_task = [id for id, _ in pool], [task for _, task in pool]
    label = rng.integers(0, clusters, n) if clusters else np.full(n, -1)
    winners = [SCORERS[(c + number) % len(SCORERS)] for c in range(clusters)]
    scorer = [winners[c] if c >= 0 else "" for c in label]
    selected = np.zeros(n, bool)
    selected[rng.choice(n, max(1, n // 4), replace=False)] = True
    kept = np.ones(n, bool)
    if prune:
        kept[rng.choice(n, n // 5, replace=False)] = False
    decisions = {
        "id": ids,
        "task": of_task,
        "cluster": pa.array(label, pa.int32()),
        "scorer": scorer,
        "score": rng.random(n),
        "selected": selected,
        "dropped": np.zeros(n, bool),
        "reason": ["ccs bin 3/50" if s else "not drawn" for s in selected],
    }
    seconds = {
        stage: round(float(x), 3)
        for stage, x in zip(STAGES, rng.uniform((8, 0.5, 20, 6, 0.8), (9, 0.9, 25, 7, 1.4)), strict=True)
    }
    run.seconds.append(seconds)
    run.n_pool.append(n)
    run.n_selected.append(int(selected.sum()))
    run.n_kept.append(int(kept.sum()))
    if "features" in done and clusters:
        with create(place / "features", {}) as to:
            write_table(to / "dropped.parquet", pa.table({"id": ["lost/1"], "reason": ["loss is not finite"]}))
            write_json(
                to / "identity.json",
                {"identity": {"model": "small-vlm", "sketch": {"kind": "sjlt", "k": 1024}}, "zeroed": []},
            )
            _timing(to, seconds["features"], 3e12, n)
    if "selection" in done:
        with create(place / "selection", {}) as to:
            write_table(to / "decisions.parquet", pa.table(decisions))
            write_json(to / "summary.json", _summary(label, selected, winners, rng))
            if clusters:
                angle = 2 * np.pi * label / clusters
                x, y = np.cos(angle) + rng.normal(0, 0.22, n), np.sin(angle) + rng.normal(0, 0.22, n)
                write_table(to / "map.parquet", pa.table({"id": ids, "x": x, "y": y}))
            _timing(to, seconds["selection"], 0.0, n)
    if "training" in done:
        with create(place / "training", {}) as to:
            write_json(to / "counters.json", {"steps": 10, "dropped": {}, "skipped": []})
            _timing(to, seconds["training"], 9e12, int(selected.sum()))
    if "evaluation" in done:
        _evaluation(place / "evaluation", run, number, rng)
    if "pool" in done:
        with create(place / "pool", {}) as to:
            table = pa.table(
                {
                    **decisions,
                    "kept": kept,
                    "duplicate_of": [None if k else ids[0] for k in kept],
                    "max_similarity": rng.random(n),
                }
            )
            write_table(to / "pool.parquet", table)
            write_table(to / "gallery.parquet", _gallery(table, gallery, texts or {}))
            _timing(to, seconds["pool"], 0.0, n)
    return [pair for pair, stays in zip(pool, kept, strict=True) if stays]


def _summary(label, selected, winners, rng) -> dict[str, Any]:
    rows = []
    for number, winner in enumerate(winners):
        here = label == number
        bits = {name: float(rng.uniform(2, 4)) for name in SCORERS}
        bits[winner] = 4.5
        if winner != "image_grounding" and number % 3 == 0:
            bits["image_grounding"] = float("nan")
        chosen = int((here & selected).sum())
        rows.append(
            {
                "cluster": number,
                "size": int(here.sum()),
                "budget": chosen,
                "selected": chosen,
                "scorer": winner,
                "entropies": bits,
            }
        )
    if not rows:
        return {"selector": "random_replay", "k": 0}
    formulas = {name: f"formula of {name}" for name in SCORERS}
    return {
        "k": len(rows),
        "elbow": [{"k": k, "inertia": inertia} for k, inertia in ELBOW],
        "clusters": rows,
        "formulas": formulas,
        "counters": {"dropped": 1, "tail_fills": 3},
    }


def _gallery(pool: pa.Table, per_decision: int, texts: dict[str, tuple[str, str]]) -> pa.Table:
    rows = []
    selected, kept = pool["selected"].to_numpy(), pool["kept"].to_numpy()
    for decision, mask in (("selected", selected), ("not selected", ~selected), ("kept", kept), ("dropped", ~kept)):
        places = np.flatnonzero(mask)
        for place in (
            places[np.linspace(0, len(places) - 1, min(per_decision, len(places))).astype(int)] if len(places) else ()
        ):
            row = pool.slice(int(place), 1).to_pylist()[0]
            prompt, answer = texts.get(
                row["task"], WORDS.get(row["task"], (f"A question of {row['task']}?", "an answer"))
            )
            duplicate = row["duplicate_of"]
            picture = (
                None if row["task"] == "translation" else _picture(int(place), 2 if row["task"] == "difference" else 1)
            )
            rows.append(
                {
                    **{
                        name: row[name]
                        for name in (
                            "id",
                            "task",
                            "cluster",
                            "scorer",
                            "score",
                            "reason",
                            "duplicate_of",
                            "max_similarity",
                        )
                    },
                    "decision": decision,
                    "prompt": prompt,
                    "answer": answer,
                    "picture": picture,
                    "duplicate_prompt": prompt if duplicate else None,
                    "duplicate_answer": answer if duplicate else None,
                    "duplicate_picture": picture if duplicate else None,
                }
            )
    text, number = pa.string(), pa.float64()
    types = {
        "cluster": pa.int32(),
        "score": number,
        "max_similarity": number,
        "picture": pa.binary(),
        "duplicate_picture": pa.binary(),
    }
    names = (
        "id",
        "task",
        "decision",
        "cluster",
        "scorer",
        "score",
        "reason",
        "prompt",
        "answer",
        "picture",
        "duplicate_of",
        "max_similarity",
    )
    schema = pa.schema(
        [(n, types.get(n, text)) for n in (*names, "duplicate_prompt", "duplicate_answer", "duplicate_picture")]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _picture(number: int, frames: int) -> bytes:
    picture = PIL.Image.new("RGB", (96 * frames + 4 * (frames - 1), 96), "white")
    draw = PIL.ImageDraw.Draw(picture)
    colours = ("crimson", "seagreen", "royalblue", "goldenrod", "purple")
    for frame in range(frames):
        box = (100 * frame + 18, 18, 100 * frame + 78, 78)
        (draw.ellipse if (number + frame) % 2 else draw.rectangle)(box, fill=colours[(number + frame) % len(colours)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _evaluation(place: Path, run: FakeRun, number: int, rng: np.random.Generator) -> None:
    with create(place, {}) as to:
        scores = dict(zip(run.tasks, run.matrix[number], strict=True))
        write_json(to / "result.json", {"scores": scores, "nll": {name: float(rng.random()) for name in run.tasks}})
        _timing(to, 6.0, 1e12, 250)


def _timing(to: Path, seconds: float, flops: float, items: int) -> None:
    write_json(
        to / "timing.json", {"seconds": seconds, "flops": flops, "items": items, "items_per_second": items / seconds}
    )


def _outcome(run: FakeRun, strategy: str, seed: int, quarantined: int) -> None:
    run.metrics = continual_metrics(run.matrix[1:], zero_shot=run.matrix[0])
    write_json(
        run.path / "metrics.json",
        {
            "strategy": strategy,
            "tasks": run.tasks,
            "score_matrix": run.matrix,
            "nll_matrix": run.matrix,
            "metrics": run.metrics,
            **run.metrics,
            "seconds": {"total": sum(sum(row.values()) for row in run.seconds), "per_step": run.seconds},
            "flops": {"total": 1e14},
            "n_selected": run.n_selected,
            "n_pool": run.n_pool,
            "n_pool_after": run.n_kept,
            "budget": 0.25,
            "seed": seed,
            "counters": {
                "quarantined": quarantined,
                "dropped": 5,
                "zeroed": 0,
                "skipped_in_training": 0,
                "dropped_in_testing": 0,
            },
            "versions": {"python": "3.11.7", "adaptinf": "0.1.0", "torch": "2.13.0"},
        },
    )


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
