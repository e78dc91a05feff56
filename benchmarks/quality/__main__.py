"""``python -m benchmarks.quality``: does selecting pay? Strategies over streams of real data, with intervals and costs.

cell    run one cell and print its row
run     run what a grid lacks, within a given time; a cell that is done is never run again
again   run a sample of the finished cells anew and compare every number but the seconds
report  the tables of docs/quality.md and the page, from the rows
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from adaptinf.config import RunConfig
from benchmarks.document import fill
from benchmarks.quality.cells import run_cell
from benchmarks.quality.goals import goals
from benchmarks.quality.grid import GRIDS, cell_of, read, run_grid
from benchmarks.quality.report import markdown, page
from benchmarks.quality.statistics import summarise
from benchmarks.quality.streams import STREAMS, Cell

RESULTS = Path(__file__).parents[1] / "results"
FIRST, LAST = "<!-- written by python -m benchmarks.quality report -->", "<!-- end -->"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, default=RESULTS / "quality.parquet", help="the rows of all finished cells")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("cell", help="run one cell and print its row")
    one.add_argument("--stream", choices=list(STREAMS), required=True)
    one.add_argument("--order", type=int, default=0)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--strategy", default="paper", help='a name, or a variant: "paper features.layers=last"')
    one.add_argument("--budget", type=float, default=0.25)
    grid = commands.add_parser("run", help="run what a grid lacks, within a given time")
    grid.add_argument("--grid", choices=list(GRIDS), default="main")
    grid.add_argument("--hours", type=float, default=3.0)
    grid.add_argument("--workers", type=int, default=os.cpu_count(), help="cells at a time, each on one thread")
    again = commands.add_parser("again", help="run a sample of the finished cells anew and compare")
    again.add_argument("--cells", type=int, default=3)
    for command in (one, grid, again):
        command.add_argument("--data", type=Path, required=True, help="folder of the data bundle")
    report = commands.add_parser("report", help="the tables and the page, from the rows")
    report.add_argument("--document", type=Path, default=Path("docs/quality.md"))
    report.add_argument("--page", type=Path, default=RESULTS / "quality.html")
    options = parser.parse_args(arguments)
    if options.command == "report":
        return _report(options.rows, options.document, options.page)
    data, cache = options.data.resolve(), RunConfig().cache_dir.resolve()
    if options.command == "run":
        return _run(options.rows, GRIDS[options.grid](), data, cache, options.hours, options.workers)
    torch.set_num_threads(1)
    if options.command == "cell":
        cell = Cell(options.stream, options.order, options.seed, options.strategy, options.budget)
        sys.stdout.write(json.dumps(run_cell(cell, data, cache), indent=1) + "\n")
        return 0
    return _again(options.rows, options.cells, data, cache)


def _run(rows: Path, cells: Iterator[Cell], data: Path, cache: Path, hours: float, workers: int) -> int:
    """One thread a cell: its numbers depend neither on the machine's cores nor on what runs beside it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        run = functools.partial(run_cell, data=data, cache=cache)
        ran, left = run_grid(cells, rows, run, seconds=3600 * hours, pool=pool, workers=workers)
    sys.stdout.write(json.dumps({"ran": ran, "left": left}) + "\n")
    return 0


def _again(rows: Path, count: int, data: Path, cache: Path) -> int:
    done = read(rows)
    different = 0
    for row in random.Random(0).sample(done, min(count, len(done))):
        found = run_cell(cell_of(row), data, cache)
        for name, value in found.items():
            if not name.endswith("_seconds") and value != row[name]:
                different += 1
                sys.stdout.write(f"{cell_of(row)}: {name} was {row[name]}, is {value}\n")
    sys.stdout.write(json.dumps({"cells": min(count, len(done)), "different": different}) + "\n")
    return 1 if different else 0


def _report(rows: Path, document: Path, page_file: Path) -> int:
    done = read(rows)
    summaries, found = summarise(done), goals(done)
    fill(document, FIRST, LAST, markdown(summaries, found))
    page_file.write_text(page(summaries, found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
