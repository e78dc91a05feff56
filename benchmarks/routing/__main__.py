"""``python -m benchmarks.routing --data BUNDLE``: does each request reach its adapter, and what does that cost?

``routers`` compares every router on SwitchCIT's five tasks, ``runs`` are whole runs of strategy switch over them,
``dispatch`` times a batch through many adapters, ``cost`` a route beside an answer. Writes the rows as JSON and the
tables of docs/routing.md. Time ``dispatch`` and ``cost`` on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from adaptinf.config import RunConfig
from benchmarks.document import fill
from benchmarks.routing import cost, dispatch, routers, runs
from benchmarks.routing.report import markdown

STUDIES = ("routers", "runs", "dispatch", "cost")
RESULTS = Path(__file__).parents[1] / "results" / "routing.json"
FIRST, LAST = "<!-- written by python -m benchmarks.routing -->", "<!-- end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data bundle")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=STUDIES, action="append", help="measure these, and keep the others' rows")
    parser.add_argument("--rows", type=Path, default=RESULTS, help="where the rows are written")
    parser.add_argument("--document", type=Path, default=Path("docs/routing.md"))
    options = parser.parse_args(arguments)
    chosen = options.only or STUDIES
    rows = []
    if options.only and options.rows.exists():
        rows = [row for row in json.loads(options.rows.read_text(encoding="utf-8")) if row["study"] not in chosen]
    for study in chosen:
        for row in measure(study, options.data.resolve(), range(options.seeds)):
            rows.append(row)
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
        rows.sort(key=lambda row: STUDIES.index(row["study"]))
        options.rows.parent.mkdir(parents=True, exist_ok=True)
        options.rows.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        fill(options.document, FIRST, LAST, markdown(rows))
    return 0


def measure(study: str, data: Path, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows of a study as they come."""
    cache, threads = RunConfig().cache_dir, os.cpu_count() or 1
    torch.set_num_threads(1)
    if study == "dispatch":
        yield from dispatch.measure(threads)
    for seed in seeds if study != "dispatch" else ():
        if study == "routers":
            yield from routers.measure(data, seed, cache)
        elif study == "runs":
            yield runs.measure(data, seed, cache)
        else:
            yield cost.measure(data, seed, cache, threads)


if __name__ == "__main__":
    raise SystemExit(main())
