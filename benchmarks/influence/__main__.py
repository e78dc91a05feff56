"""``python -m benchmarks.influence --data BUNDLE``: do influence functions say what training again says?

Edits of a pre-trained language model against retraining it (``unlearning``), LESS and DETAIL against leaving one out
(``ranking``, ``demonstrations``), five seeds each. Writes the rows as JSON and the tables of docs/influence.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from adaptinf.config import RunConfig
from benchmarks.document import fill
from benchmarks.influence import demonstrations, ranking, unlearning
from benchmarks.influence.report import markdown
from benchmarks.influence.vectors import SOURCES

STUDIES = ("unlearning", "ranking", "demonstrations")
RESULTS = Path(__file__).parents[1] / "results" / "influence.json"
FIRST, LAST = "<!-- written by python -m benchmarks.influence -->", "<!-- end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.influence", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data bundle")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=STUDIES, help="measure this one anew, and keep the rows of the others")
    parser.add_argument("--rows", type=Path, default=RESULTS, help="where the rows are written")
    parser.add_argument("--document", type=Path, default=Path("docs/influence.md"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the times are a processor's, whatever else runs
    chosen = [options.only] if options.only else STUDIES
    rows = []
    if options.only and options.rows.exists():
        rows = [row for row in json.loads(options.rows.read_text(encoding="utf-8")) if row["study"] != options.only]
    for study in chosen:
        for row in measure(study, options.data, range(options.seeds)):
            rows.append(row)
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    options.rows.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    fill(options.document, FIRST, LAST, markdown(rows))
    return 0


def measure(study: str, data: Path, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows of a study as they come; one with a ``reason`` for what cannot be measured here."""
    if study == "unlearning":
        if not (data / unlearning.MODEL).is_dir():
            yield {"study": study, "reason": f"unlearning: the bundle has no {unlearning.MODEL}"}
            return
        lm, pool, held_out = unlearning.load(data, RunConfig().cache_dir)
        for problem in unlearning.PROBLEMS:
            for seed in seeds:
                yield from unlearning.measure(lm, pool, held_out, problem, unlearning.Sizes(), seed)
        return
    for name, source in SOURCES.items():
        try:
            vectors = source(data)
        except (OSError, ImportError) as error:
            yield {"study": study, "reason": f"{study} on {name}: {error}"}
            continue
        for seed in seeds:
            yield from (ranking if study == "ranking" else demonstrations).measure(name, vectors, seed)


if __name__ == "__main__":
    raise SystemExit(main())
