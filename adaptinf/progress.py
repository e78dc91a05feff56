"""The one progress bar: description, count, remaining time and items per second, on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")

LOG_INTERVAL = 10.0
"""Seconds between two lines away from a terminal."""


def progress(
    items: Iterable[Item] = (), description: str = "", *, total: int | None = None, unit: str = "sample"
) -> tqdm[Item]:
    """A bar over ``items``, or (without ``items``) one advanced by ``.update(n)`` and closed by ``with``.

    ``ADAPTINF_PROGRESS=0`` switches every bar off. Away from a terminal (a log file) a bar shows only when
    its work takes longer than ten seconds, and then at most every ten seconds.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=description,
        total=total,
        unit=unit,
        unit_scale=False,
        file=sys.stderr,
        disable=os.environ.get("ADAPTINF_PROGRESS") == "0",
        mininterval=0.2 if terminal else LOG_INTERVAL,
        delay=0 if terminal else LOG_INTERVAL,
        position=None if terminal else 0,  # no cursor movements for bars within bars
        dynamic_ncols=True,
        leave=False,
    )
