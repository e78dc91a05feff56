"""``python -m benchmarks run | compare | gpu``; see README.md."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from benchmarks import table
from benchmarks.gpu import BUDGET, build
from benchmarks.orchestrate import Plan, execute
from benchmarks.results import Report, compare


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure the CPU suite and print goals and tables")
    run.add_argument("--only", default="*", help="cases whose name matches this pattern")
    run.add_argument("--rounds", type=int, default=14)
    run.add_argument("--quick", action="store_true", help="tiny shapes, three rounds: to see that everything runs")
    run.add_argument(
        "--out", type=Path, help="result file instead of benchmarks/results/<hardware>/<day>-<commit>.json"
    )
    two = commands.add_parser("compare", help="two result files; status 1 where ours became slower")
    two.add_argument("old", type=Path)
    two.add_argument("new", type=Path)
    gpu = commands.add_parser("gpu", help="build for this GPU, gate, time, report: under nine minutes, no network")
    gpu.add_argument("--only", default="*", help="cases whose name matches this pattern")
    gpu.add_argument("--dry-run", action="store_true", help="the same with tiny shapes on the CPU; builds nothing")
    gpu.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything (default %(default)s)")
    gpu.add_argument(
        "--out", type=Path, help="result file instead of benchmarks/results/<hardware>/<day>-<commit>.json"
    )
    options = parser.parse_args(arguments)
    command = _recorded(sys.argv[1:] if arguments is None else arguments)
    try:
        if options.command == "compare":
            return _compare(options.old, options.new)
        if options.command == "run":
            tiny = options.quick
            rounds = 3 if tiny else options.rounds
            plan = Plan("cpu", "tiny" if tiny else "full", "cpu", options.only, command, rounds)
        elif options.dry_run:
            plan = Plan("gpu", "tiny", "cpu", options.only, command, rounds=1, budget=options.budget)
        else:
            left = options.budget - build(options.budget)
            plan = Plan("gpu", "full", "cuda", options.only, command, rounds=30, seconds=4.0, budget=left)
        return _run(plan, options.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _recorded(arguments: list[str]) -> str:
    """The command that measures the same again; where its result was written is of that machine alone."""
    kept = list(arguments)
    while "--out" in kept:
        at = kept.index("--out")
        del kept[at : at + 2]
    return shlex.join(["python", "-m", "benchmarks", *(one for one in kept if not one.startswith("--out="))])


def _run(plan: Plan, out: Path | None) -> int:
    report, path = execute(plan, out)
    text = table.markdown(report)
    path.with_suffix(".md").write_text(text)
    print(text)
    print(f"written: {path} and {path.with_suffix('.md').name}")
    for line in report.broken:
        print(f"error: {line}", file=sys.stderr)
    return 1 if report.broken else 0


def _compare(old: Path, new: Path) -> int:
    found = compare(Report.read(old), Report.read(new))
    print(table.changes(found))
    return 1 if any(one.regression for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
