"""Cut a pool to a size by dropping, in every cluster, the samples most like others."""

from __future__ import annotations

import argparse
from pathlib import Path

from adaptinf.cli.pool import add_features, output_file, read_features
from adaptinf.cli.settings import add_settings, read_settings
from adaptinf.errors import ArtefactError, ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("decisions", metavar="DECISIONS", type=Path, help="what `adaptinf select` wrote")
    add_features(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("pool.parquet"), help="Parquet file of the decisions with `kept`"
    )
    add_settings(parser, "seed", "pruning")


def execute(arguments: argparse.Namespace) -> int:
    config = read_settings(arguments)
    size = config.pruning.pool_budget
    if size is None:
        raise ConfigError("has no value", item="pruning.pool_budget", remedy="write --pruning.pool_budget 0.5")
    features, _ = read_features(arguments.features)

    import pyarrow as pa

    from adaptinf.selection import prune, resolve_budget
    from adaptinf.store import read_table, write_table
    from adaptinf.tuning.decisions import pool_table

    decisions = read_table(arguments.decisions)
    usable = decisions.filter(pa.array(~decisions["dropped"].to_numpy()))
    if features.hidden is None or usable["id"].to_pylist() != features.ids:
        raise ArtefactError(
            "does not list the samples of the features, in their order",
            item=str(arguments.decisions),
            remedy="give the features directories that it was selected from",
        )
    if config.pruning.within == "group":
        remedy = "leave it at cluster, or use adaptinf run"
        raise ConfigError("a table of decisions names no groups", item="pruning.within", remedy=remedy)
    pruned = prune(
        usable,
        features.hidden,
        resolve_budget(size, len(usable), capped=True),
        clusters=usable["cluster"].to_numpy(),
        order=config.pruning.order,
        keep=config.pruning.keep,
        seed=config.seed,
    )
    write_table(output_file(arguments.out), pool_table(decisions, pruned))
    print(f"{pruned.kept.sum()} of {len(usable)} samples kept: {arguments.out}")
    return 0
