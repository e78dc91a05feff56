"""Measure the training samples of a stream: gradient sketches, scores and hidden states."""

from __future__ import annotations

import argparse
from pathlib import Path

from adaptinf.cli.settings import add_settings, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file of settings")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one features directory a task")
    parser.add_argument("--adapter", type=Path, help="measure with this peft adapter (default: a new one)")
    add_settings(parser, "strategy", "seed", "cache", "data", "model", "lora", "features", "selection", "pruning")


def execute(arguments: argparse.Namespace) -> int:
    config = read_settings(arguments, arguments.config)

    from adaptinf.models import add_lora, load_adapter
    from adaptinf.store import create, digest, is_complete

    print(config, add_lora, load_adapter, create, digest, is_complete)
    return 0
