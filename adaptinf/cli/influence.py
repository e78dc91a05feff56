"""Rank a pool of training samples by how much they would help with the samples of a query."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adaptinf.cli.pool import output_file
from adaptinf.cli.samples import read_samples
from adaptinf.cli.settings import add_settings, read_settings
from adaptinf.errors import ConfigError

if TYPE_CHECKING:
    from adaptinf.config import RunConfig
    from adaptinf.models import LanguageModel

_DATA = ("data.root", "data.max_bad_fraction", "data.verify_images", "data.max_pixels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--query", type=Path, required=True, metavar="FILE", help="JSON Lines (or .gz): samples to do well on, by task"
    )
    parser.add_argument("--pool", type=Path, required=True, metavar="FILE", help="JSON Lines (or .gz): samples to rank")
    parser.add_argument(
        "--method",
        default="less",
        help="less (default): cosines; sketched or datainf: influence functions with the pool's curvature",
    )
    parser.add_argument(
        "--adapter",
        type=Path,
        help="measure with this peft adapter (default: a new one); with Adam's moments where a run left them beside it",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("influence.parquet"),
        help="Parquet file of rank, id, score, task (%(default)s)",
    )
    add_settings(parser, "seed", "cache", *_DATA, "model", "lora", "features")


def execute(arguments: argparse.Namespace) -> int:
    config = read_settings(arguments)
    if config.model.name == "small-vlm":
        raise ConfigError(
            "is pre-trained on a stream, and there is none here",
            item="model.name=small-vlm",
            remedy="write --model.name smollm2-135m, a local folder or a Hugging Face id",
        )

    from adaptinf.influence.ranking import METHODS, targeted_influence
    from adaptinf.store import write_table

    if arguments.method not in METHODS:
        raise ConfigError("is no method", item=f"--method {arguments.method}", remedy=f"choose {', '.join(METHODS)}")
    pool, query = read_samples(arguments.pool, config), read_samples(arguments.query, config)
    lm = _load(config, arguments.adapter)
    moments = _moments(arguments.adapter, lm) if arguments.method == "less" else None

    from adaptinf.capture import extract_as

    features, wanted = (
        extract_as(
            config.features,
            lm,
            samples,
            columns=(),
            sketch=True,
            hidden=False,
            preconditioners=preconditioners,
            on_error=config.model.on_long,
            description=name,
        )
        for samples, preconditioners, name in ((pool, moments, "pool"), (query, None, "query"))
    )
    task_of = {sample.id: sample.task for sample in query}
    ranking = targeted_influence(features, wanted, [task_of[id] for id in wanted.ids], method=arguments.method)
    write_table(output_file(arguments.out), ranking.table())
    left_out = len(features.dropped) + len(wanted.dropped)
    print(f"{len(ranking.ids)} samples ranked, {left_out} left out: {arguments.out}")
    return 0


def _load(config: RunConfig, adapter: Path | None) -> LanguageModel:
    from adaptinf.models import add_lora, load_adapter, load_model

    lm = load_model(config.model, cache=config.cache_dir)
    if adapter is not None:
        load_adapter(lm, adapter)
    elif config.features.parameters == "lora":
        add_lora(lm, config.lora, seed=config.seed)
    return lm


def _moments(adapter: Path | None, lm: LanguageModel) -> dict | None:
    """Of the training that made the adapter: a run keeps them in the folder around it."""
    from adaptinf.tuning.moments import TENSORS, load_moments

    if adapter is None or not (adapter.parent / TENSORS).exists():
        return None
    return load_moments(adapter.parent, lm.device)
