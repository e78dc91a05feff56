"""Run one strategy over one stream; an unfinished run in the directory is continued."""

from __future__ import annotations

import argparse
from pathlib import Path

from adaptinf.cli.settings import add_settings, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file of settings")
    parser.add_argument("--out", type=Path, help="run directory (default: the setting 'out', else runs/<strategy>)")
    add_settings(parser)


def execute(arguments: argparse.Namespace) -> int:
    config = read_settings(arguments, arguments.config)

    import adaptinf
    from adaptinf.report import format_table

    directory = adaptinf.run(config, out=arguments.out)
    print(format_table([directory]))
    print(f"report: {directory / 'report.html'}")
    return 0
