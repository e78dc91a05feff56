"""Which cells there are, which are done, and running the rest within a given time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adaptinf.store import replace_file
from benchmarks.quality.streams import Cell

RIVALS = (
    "rotation", "perplexity_high", "perplexity_mid", "perplexity_low", "el2n", "entropy", "grand", "image_grounding",
    "ccs", "d2", "semdedup", "dbp", "coincide", "less", "tive", "infobatch", "self_filter", "oasis", "released", "lite",
)  # fmt: skip
LEADING = ("random_replay", "adaptinf", "paper")
HALVED = (
    "paper pruning.pool_budget=0.5",
    "adaptinf pruning.pool_budget=0.5 pruning.keep=greedy pruning.within=group features.refresh=arrival",
)
"""Strategies that keep half of the pool: by what is alike in their clusters, and in the groups that the data name."""
ROUTED = (
    ("switch training.epochs=6.5", 1.0),
    ("switch routing.selector=paper training.epochs=13.0", 0.5),
    ("switch", 1.0),
)
"""An adapter a task and a router, with the budget of each: trained on all of a task, or on the half chosen of it. The
first two train as many samples as a single adapter does at a quarter, the last as joint training does."""
BUDGETS = (0.125, 0.25, 0.05, 0.5)
SEEDS, ORDERS = range(5), range(3)

SCHEMA = pa.schema(
    [
        ("stream", pa.string()),
        ("order", pa.int32()),
        ("seed", pa.int32()),
        ("strategy", pa.string()),
        ("budget", pa.float64()),
        ("average_accuracy", pa.float64()),
        ("relative_gain", pa.float64()),
        ("forgetting", pa.float64()),
        ("worst_task", pa.float64()),
        ("learned_accuracy", pa.float64()),
        ("zero_shot_average", pa.float64()),
        ("strict", pa.float64()),
        ("final_nll", pa.float64()),
        ("zero_shot_nll", pa.float64()),
        ("tasks", pa.list_(pa.string())),
        ("final_scores", pa.list_(pa.float64())),
        ("zero_shot", pa.list_(pa.float64())),
        ("n_trained", pa.int64()),
        ("near_duplicates", pa.float64()),
        ("selection_seconds", pa.float64()),
        ("training_seconds", pa.float64()),
        ("selection_flops", pa.float64()),
        ("training_flops", pa.float64()),
        ("version", pa.string()),
    ]
)
"""``relative_gain``: 100 times the mean over the tasks of the final score over that of joint training on everything
with the same order and seed, over the tasks that it does not score 0 on."""


def main_rows() -> Iterator[Cell]:
    """The rows of the headline table: references, random replay and the presets at a quarter and an eighth.

    Five seeds; a seed and its order go together (order = seed mod 3).
    """
    for seed in SEEDS:
        order = seed % len(ORDERS)
        for stream in ("multimodal", "text"):
            yield Cell(stream, order, seed, "multitask", 1.0)
            yield Cell(stream, order, seed, "sequential", 1.0)
            for budget in BUDGETS[:2]:
                for strategy in LEADING:
                    yield Cell(stream, order, seed, strategy, budget)
        yield Cell("redundant", order, seed, "multitask", 1.0)
        for strategy in (*LEADING, *HALVED):
            yield Cell("redundant", order, seed, strategy, 0.25)


ABLATIONS = (
    *(f"paper features.layers={layer}" for layer in ("first", "last", "all")),
    *(f"paper features.sketch={kind}" for kind in ("rademacher", "xorts")),
    *(f"paper features.k={size}" for size in (64, 4096)),
    *(f"paper selection.n_clusters={k}" for k in (5, 20, "auto")),
    *(f"paper selection.bins={bins}" for bins in (10, 100)),
    "paper selection.cluster_by=hidden",
    "paper selection.scores=ranks",
    "paper features.refresh=arrival",
    *(f"paper pruning.pool_budget={share}" for share in (0.75, 0.5, 0.25)),
    *(f"{of} selection.new_share={share}" for of in ("paper", "adaptinf") for share in (0.1, 0.3, 0.5)),
    *(f"{of} training.carry_lora={carry}" for of in ("paper", "adaptinf") for carry in ("merge", "fresh")),
)
"""What the paper leaves open, one setting at a time."""


def ablation_rows() -> Iterator[Cell]:
    """Every setting on the cheaper stream at an eighth, seed by seed."""
    for seed in SEEDS[:2]:
        for strategy in ABLATIONS:
            yield Cell("text", seed % len(ORDERS), seed, strategy, 0.125)


def routed_rows() -> Iterator[Cell]:
    """Strategy switch on the stream of twelve tasks, seed by seed."""
    for seed in SEEDS:
        for strategy, budget in ROUTED:
            yield Cell("multimodal", seed % len(ORDERS), seed, strategy, budget)


def rival_rows() -> Iterator[Cell]:
    """Every other selector, seed by seed, and the other budgets."""
    for budget in BUDGETS:
        for seed in SEEDS:
            for stream in ("multimodal", "text"):
                for strategy in (
                    *RIVALS,
                    *(LEADING if budget not in BUDGETS[:2] else ()),
                ):
                    if strategy != "image_grounding" or stream != "text":
                        yield Cell(stream, seed % len(ORDERS), seed, strategy, budget)


GRIDS: dict[str, Callable[[], Iterator[Cell]]] = {
    "main": main_rows,
    "rivals": rival_rows,
    "ablations": ablation_rows,
    "routed": routed_rows,
}


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of all cells that are done."""
    return pq.read_table(file, schema=SCHEMA).to_pylist() if file.exists() else []


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """All rows, sorted by cell, in place of the file."""
    table = pa.Table.from_pylist(_with_gain(sorted(rows, key=cell_of)), schema=SCHEMA)
    content = pa.BufferOutputStream()
    pq.write_table(table, content)
    replace_file(file, content.getvalue().to_pybytes())


def cell_of(row: dict[str, Any]) -> Cell:
    """The cell that a row belongs to."""
    return Cell(*(row[name] for name in Cell._fields))


def run_grid(
    cells: Iterator[Cell],
    file: Path,
    run: Callable[[Cell], dict[str, Any]],
    *,
    seconds: float,
    pool: Executor,
    workers: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, int]:
    """Run the cells that ``file`` lacks, ``workers`` at a time in ``pool``, each written as it ends; returns how many
    ran and are left.

    None is begun that would, as long as the longest so far, end after ``seconds``. A cell is never run twice. Where one
    fails, those that run beside it are finished and written before its error is raised.
    """
    begun, longest = clock(), 0.0
    rows = read(file)
    done = {cell_of(row) for row in rows}
    waiting = [cell for cell in dict.fromkeys(cells) if cell not in done]
    running: dict[Future[dict[str, Any]], float] = {}
    ran, failure = 0, None
    while True:
        while len(running) < workers and ran + len(running) < len(waiting) and failure is None:
            if clock() - begun + longest > seconds:
                break
            running[pool.submit(run, waiting[ran + len(running)])] = clock()
        if not running:
            break
        for ended in wait(running, return_when=FIRST_COMPLETED).done:
            longest = max(longest, clock() - running.pop(ended))
            if ended.exception() is not None:
                failure = failure or ended.exception()
                continue
            rows.append(ended.result())
            write(file, rows)
            ran += 1
    if failure is not None:
        raise failure
    return ran, len(waiting) - ran


def _with_gain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    joint = {
        (row["stream"], row["order"], row["seed"]): dict(zip(row["tasks"], row["final_scores"], strict=True))
        for row in rows
        if row["strategy"] == "multitask"
    }
    return [row | {"relative_gain": _gain(row, joint)} for row in rows]


def _gain(row: dict[str, Any], joint: dict[tuple, dict[str, float]]) -> float | None:
    against = joint.get((row["stream"], row["order"], row["seed"]))
    if against is None:
        return None
    scores = dict(zip(row["tasks"], row["final_scores"], strict=True))
    shares = [scores[task] / against[task] for task in scores if against[task] > 0]
    return 100 * sum(shares) / len(shares) if shares else None
