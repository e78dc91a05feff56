"""Run random replay and Adapt-infinity on real data at an equal budget, print the table and write the report."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptinf.cli.settings import add_settings, read_settings
from adaptinf.config import RunConfig, load_config, to_dict

STRATEGIES = ("random_replay", "paper")
BASELINES = ("sequential", "multitask", "random_replay")
POOL_BUDGET = 0.5
"""Share of all samples so far that the pool keeps after a step, unless the command line says another."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="directory of the runs and the comparison")
    parser.add_argument(
        "--data", type=Path, help="bundle of <task>.<split>.jsonl.gz files (default: tasks from pip packages)"
    )
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), help="strategies to compare")
    add_settings(parser)


def execute(arguments: argparse.Namespace) -> int:
    settings = to_dict(read_settings(arguments))
    if arguments.data is not None:
        settings["data"].update(source="bundle", root=str(arguments.data))
    configs = [_config_of(strategy, settings) for strategy in arguments.strategies]
    directories = [_run(config, arguments.out / config.strategy) for config in configs]

    from adaptinf.report import build_comparison, format_table

    page = build_comparison(directories, arguments.out / "report.html")
    print(format_table(directories))
    print(f"report: {page}")
    return 0


def _config_of(strategy: str, settings: dict[str, Any]) -> RunConfig:
    """The settings for one strategy; the baselines keep every sample."""
    config = load_config({**settings, "strategy": strategy})
    if strategy in BASELINES or config.pruning.pool_budget is not None:
        return config
    return replace(config, pruning=replace(config.pruning, pool_budget=POOL_BUDGET))


def _run(config: RunConfig, directory: Path) -> Path:
    import adaptinf

    print(f"{config.strategy}: {directory}", flush=True)
    return adaptinf.run(config, out=directory)
