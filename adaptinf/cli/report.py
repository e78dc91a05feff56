"""Write the HTML report of one run, or the comparison of several."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directories", metavar="DIR", type=Path, nargs="+", help="run directories")
    parser.add_argument(
        "--out", type=Path, help="HTML file (default: DIR/report.html, or comparison.html beside the runs)"
    )


def execute(arguments: argparse.Namespace) -> int:
    from adaptinf.report import build_comparison, build_report, format_table

    runs = arguments.directories
    if len(runs) == 1:
        page = build_report(runs[0], arguments.out)
    else:
        page = build_comparison(runs, arguments.out or runs[0].parent / "comparison.html")
    print(format_table(runs))
    print(f"report: {page}")
    return 0
