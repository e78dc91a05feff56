"""The streams of the comparison, each in several orders, and the configuration of one cell of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptinf.config import RunConfig, load_config
from adaptinf.errors import ConfigError


class Cell(NamedTuple):
    """One run. ``strategy`` is a strategy's name, with settings after it where it is a variant of one:
    ``"paper features.layers=last"``. ``order`` 0 is the stream as listed, another number a permutation drawn by it."""

    stream: str
    order: int
    seed: int
    strategy: str
    budget: float


@dataclass(frozen=True)
class Stream:
    """Tasks of the data bundle, and the settings that all runs over them share."""

    about: str
    tasks: tuple[str, ...]
    settings: dict[str, Any]


_TRAINING = {"epochs": 4.0, "batch_size": 32, "learning_rate": 5e-3}
_EVALUATION = {"batch_size": 64}
_VLM = {"name": "small-vlm", "on_long": "drop"}
_PRETRAINING = {"train_limit": 1000, "steps": 600, "batch_size": 32, "learning_rate": 1e-3}
_PICTURES = ("grocery_fine", "tux_caption_multilingual", "raccoon_grounding", "sroie_ocr", "sroie_kie")
_TEXTS = ("p3_qa", "p3_classification", "self_instruct_seed", "haiku")


def _pretrained(*more: str) -> dict[str, Any]:
    """The small model, pre-trained on tasks that no stream has, and on those that only this stream has not."""
    return _VLM | {"pretrain": _PRETRAINING | {"tasks": [*_PICTURES, *_TEXTS, *more]}}


_FEATURES = {"k": 512}

STREAMS = {
    "text": Stream(
        "stories260K, a Llama of 260 thousand pre-trained weights; the five tasks of SwitchCIT and two more, their "
        "sizes in proportion",
        (
            "onestop_simplify", "emotion_dialogue", "question_generation", "esnli_explain", "headline_constraint",
            "p3_generation", "haiku",
        ),
        {
            "data": {"train_fraction": 0.15, "test_limit": 120, "max_characters": 400},
            "model": {"name": "models/stories260K", "on_long": "drop"},
            "training": _TRAINING,
        },
    ),
    "multimodal": Stream(
        "the small vision-language model with a frozen EfficientNet-lite0, pre-trained on other tasks; sizes in "
        "proportion, but none above 320",
        (
            "grocery_coarse", "esnli_explain", "nlvr", "bccd_count", "p3_generation", "omniglot_alphabet",
            "onestop_simplify", "puzzle_vqa", "question_generation", "tux_caption", "easy_vqa", "emotion_dialogue",
        ),
        {
            "data": {"train_fraction": 0.25, "train_limit": 320, "test_limit": 120},
            "model": _pretrained("bccd_grounding", "omniglot_pair", "covidfact", "p3_paraphrase"),
            "training": _TRAINING,
        },
    ),
    "redundant": Stream(
        "the small vision-language model on tasks whose records come in groups of near-duplicates",
        ("nlvr", "p3_paraphrase", "easy_vqa", "p3_generation"),
        {
            "data": {"train_limit": 480, "test_limit": 80},
            "model": _pretrained("esnli_explain", "bccd_count", "puzzle_vqa"),
            "training": _TRAINING,
        },
    ),
}  # fmt: skip


def order_of(stream: str, order: int) -> list[str]:
    """The tasks of a stream in its ``order``-th order."""
    tasks = list(STREAMS[stream].tasks)
    if not order:
        return tasks
    return [tasks[i] for i in np.random.default_rng(10 + order).permutation(len(tasks))]


def configuration(cell: Cell, data: Path, cache: Path) -> RunConfig:
    """The run that a cell stands for, on the data bundle in ``data``.

    Raises ConfigError: an unknown stream, strategy or setting.
    """
    if cell.stream not in STREAMS:
        raise ConfigError("is no stream", item=cell.stream, remedy=f"choose from {', '.join(STREAMS)}")
    settings = STREAMS[cell.stream].settings
    model = dict(settings["model"])
    if "/" in model["name"]:
        model["name"] = str(data / model["name"])
    strategy, *variant = shlex.split(cell.strategy)
    return load_config(
        {
            "seed": cell.seed,
            "strategy": strategy,
            "budget": float(cell.budget),
            "cache": str(cache),
            "data": {"source": "bundle", "root": str(data), "order": order_of(cell.stream, cell.order)}
            | settings["data"],
            "model": model,
            "features": _FEATURES,
            "training": settings["training"],
            # joint training shows every task before and after, the others each task as it was learned and at the end
            "evaluation": _EVALUATION | {"tasks": "all" if strategy == "multitask" else "new"},
            "report": {"gallery": 0},
        },
        dict(pair.split("=", 1) for pair in variant),
    )
