"""Features directories on the command line as one pool."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptinf.errors import ArtefactError

if TYPE_CHECKING:
    from adaptinf.capture import Features
    from adaptinf.selection import Pool


def add_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "features", metavar="FEATURES", type=Path, nargs="+", help="features directories; each one's name is its task's"
    )


def read_features(directories: Sequence[Path]) -> tuple[Features, list[str]]:
    """All rows, and the task of each. Features that were not made alike raise IdentityError."""
    for directory in directories:
        if not (directory / "scores.parquet").exists():
            raise ArtefactError(
                "is no features directory", item=str(directory), remedy="make one with `adaptinf features`"
            )

    from adaptinf.capture import Features

    parts = [Features.load(directory) for directory in directories]
    together = parts[0]
    for part in parts[1:]:
        together = together.concat(part)
    return together, [task_of(place) for place, part in zip(directories, parts, strict=True) for _ in part.ids]


def task_of(directory: Path) -> str:
    """``out/easy_vqa`` -> ``easy_vqa``; ``steps/01_easy_vqa/features`` -> ``01_easy_vqa``."""
    place = directory.resolve()
    return place.parent.name if place.name == "features" else place.name


def make_pool(features: Features, tasks: Sequence[str]) -> Pool:
    """The pool that a selector sees; every sample counts as new."""
    import numpy as np

    from adaptinf.selection import Pool

    return Pool(
        ids=features.ids,
        tasks=tasks,
        is_new=np.ones(len(features), bool),
        scores=features.scores,
        sketch=features.sketch,
        hidden=features.hidden,
        direction=features.direction,
    )


def output_file(path: Path) -> Path:
    """``path`` with its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
