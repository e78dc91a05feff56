"""Run random replay and Adapt-infinity on real data at an equal budget, print the table and write the report."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptinf.cli.settings import add_settings, read_settings
from adaptinf.config import RunConfig, load_config, to_dict

STRATEGIES = ("random_replay", "paper")
BASELINES = ("sequential", "multitask", "random_replay")
POOL_BUDGET = 0.8
"""Share of all samples so far that the pool keeps after a step, unless the command line says another."""

SETTINGS: dict[str, Any] = {
    "budget": 0.25,
    "data": {
        "source": "demo",
        "order": ["shapes_vqa", "country_language", "digit_reading", "place_country", "digit_compare"],
        "train_limit": 800,
        "test_limit": 100,
    },
    "model": {"pretrain": {"fraction": 0.25, "steps": 500, "batch_size": 32}},
    "features": {"k": 512},
    "training": {"epochs": 4, "batch_size": 32, "learning_rate": 2e-3},
    "evaluation": {"batch_size": 64},
}
"""Five tasks of five skills (pictures, two pictures, text, many languages), small enough for minutes on two cores."""

BUNDLE: dict[str, Any] = {
    **SETTINGS,
    "data": {
        "source": "bundle",
        "order": [
            "easy_vqa", "p3_paraphrase", "grocery_coarse", "headline_constraint", "nlvr", "tux_caption_multilingual",
            "bccd_grounding", "esnli_explain", "omniglot_pair", "bccd_count", "sroie_ocr", "onestop_simplify",
            "tux_caption", "puzzle_vqa",
        ],
        "train_limit": 160,
        "test_limit": 30,
    },
    "model": {"on_long": "drop", "pretrain": {"fraction": 0.25, "steps": 300, "batch_size": 32}},
    "training": {**SETTINGS["training"], "epochs": 2},
}  # fmt: skip
"""Fourteen tasks of a bundle of real data."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="directory of the runs and the comparison")
    parser.add_argument(
        "--data", type=Path, help="bundle of <task>.<split>.jsonl.gz files (default: tasks from pip packages)"
    )
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), help="strategies to compare")
    add_settings(parser, base=SETTINGS)


def execute(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # its model loads in a blink, again and again
    base = SETTINGS if arguments.data is None else {**BUNDLE, "data": {**BUNDLE["data"], "root": str(arguments.data)}}
    settings = to_dict(read_settings(arguments, base))
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
    pool_budget = None if strategy in BASELINES else config.pruning.pool_budget or POOL_BUDGET
    return replace(config, pruning=replace(config.pruning, pool_budget=pool_budget))


def _run(config: RunConfig, directory: Path) -> Path:
    import adaptinf

    print(f"{config.strategy}: {directory}", flush=True)
    return adaptinf.run(config, out=directory)
