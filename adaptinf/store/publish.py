"""Files and folders of the cache: complete or absent, whatever kills the process, and whoever else writes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from adaptinf.store.io import sync


def publish(path: Path, write: Callable[[Path], None]) -> None:
    """Make ``path`` (a file or a folder) by ``write(temporary path)``, flush it to the disk and rename it into place.

    If somebody else made it meanwhile, theirs stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", dir=path.parent))
    try:
        made = staging / path.name
        write(made)
        for file in sorted([made, *made.rglob("*")]):
            sync(file)
        if not path.exists():
            try:
                made.rename(path)
            except OSError:
                if not path.exists():  # else another process was faster
                    raise
        sync(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
