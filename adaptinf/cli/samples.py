"""Samples of one file on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adaptinf.errors import EmptyTaskError

if TYPE_CHECKING:
    from adaptinf.config import RunConfig
    from adaptinf.data import Sample


def read_samples(file: Path, config: RunConfig) -> list[Sample]:
    """JSON Lines (or .gz) of instruction and response; pictures are found from ``data.root``, else the file's folder.

    Raises what reading raises, and EmptyTaskError for a file without samples.
    """
    from adaptinf.data import ImageFolder, Quarantine, read_jsonl

    root = Path(config.data.root).expanduser() if config.data.root else file.parent
    images = ImageFolder(root.resolve(), max_pixels=config.data.max_pixels, verify=config.data.verify_images)
    quarantine = Quarantine(max_bad_fraction=config.data.max_bad_fraction)
    with quarantine.dataset(str(file)):
        samples = list(read_jsonl(file, quarantine=quarantine, images=images, task=file.name.partition(".")[0]))
    if not samples:
        raise EmptyTaskError("has no sample", item=str(file), remedy="give JSON Lines of instruction and response")
    return samples
