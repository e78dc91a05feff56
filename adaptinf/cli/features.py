"""Measure the training samples of a stream: gradient sketches, scores and hidden states."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adaptinf.cli.settings import add_settings, read_settings
from adaptinf.config import RunConfig, to_dict
from adaptinf.errors import ConfigError

if TYPE_CHECKING:
    from adaptinf.data import TaskStream
    from adaptinf.models import LanguageModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file of settings")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one features directory a task")
    parser.add_argument("--adapter", type=Path, help="measure with this peft adapter (default: a new one)")
    add_settings(parser, "strategy", "seed", "cache", "data", "model", "lora", "features", "selection")


def execute(arguments: argparse.Namespace) -> int:
    config = read_settings(arguments, arguments.config)

    from adaptinf.capture import extract_as
    from adaptinf.store import create, digest, is_complete
    from adaptinf.tuning import make_strategy

    needs = make_strategy(config).selector.needs()
    if not needs:
        raise ConfigError(f"{config.strategy!r} reads no features", item="strategy", remedy="choose paper")
    arguments.out.mkdir(parents=True, exist_ok=True)
    stream, lm = _load(config, arguments.out / "quarantine.jsonl", arguments.adapter)
    settings = {key: to_dict(config)[key] for key in ("seed", "data", "model", "lora", "features")}
    identity = {"parent": digest({**settings, "adapter": lm.identity(), "scores": needs.scores})}
    for task in stream:
        place = arguments.out / task.name
        if not is_complete(place, identity):
            with create(place, identity) as staging:
                extract_as(
                    config.features,
                    lm,
                    task.train,
                    columns=needs.scores,
                    sketch=needs.sketch,
                    hidden=True,
                    on_error=config.model.on_long,
                    description=task.name,
                ).save(staging)
        print(f"{len(task.train)} samples of {task.name}: {place}", flush=True)
    return 0


def _load(config: RunConfig, quarantine: Path, adapter: Path | None) -> tuple[TaskStream, LanguageModel]:
    """The stream, and the model with the given or a new adapter."""
    from adaptinf.models import add_lora, load_adapter, load_model
    from adaptinf.tuning import open_stream

    stream, pretraining = open_stream(config, quarantine)
    lm = load_model(config.model, pretraining=pretraining, cache=config.cache_dir)
    add_lora(lm, config.lora, seed=config.seed)
    if adapter is not None:
        load_adapter(lm, adapter)
    return stream, lm
