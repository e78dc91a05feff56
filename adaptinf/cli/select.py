"""Choose training samples from features: one decision a sample, as Parquet keyed by id."""

from __future__ import annotations

import argparse
from pathlib import Path

from adaptinf.cli.pool import add_features, make_pool, output_file, read_features
from adaptinf.cli.settings import add_settings, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_features(parser)
    parser.add_argument("--out", type=Path, default=Path("decisions.parquet"), help="Parquet file of the decisions")
    add_settings(parser, "strategy", "budget", "seed", "selection")


def execute(arguments: argparse.Namespace) -> int:
    config = read_settings(arguments)
    features, tasks = read_features(arguments.features)

    from adaptinf.store import write_table
    from adaptinf.tuning import make_strategy
    from adaptinf.tuning.decisions import decisions_table

    pool = make_pool(features, tasks)
    strategy = make_strategy(config)
    budget = strategy.budget(config.budget, len(pool), len(pool))
    selection = strategy.selector.select(pool, budget, config.seed)
    write_table(output_file(arguments.out), decisions_table(pool, selection, features))
    print(f"{selection.selected.sum()} of {len(pool)} samples selected by {config.strategy}: {arguments.out}")
    return 0
