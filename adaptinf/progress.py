"""The one progress bar: description, count, remaining time and items per second, on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")


def progress(
    items: Iterable[Item] = (), description: str = "", *, total: int | None = None, unit: str = "sample"
) -> tqdm[Item]:
    """A bar over ``items``, or (without ``items``) one advanced by ``.update(n)`` and closed by ``with``.

    ``ADAPTINF_PROGRESS=0`` switches every bar off. Away from a terminal a bar writes a line at most every ten seconds.
    """
    return tqdm(
        items,
        desc=description,
        total=total,
        unit=unit,
        unit_scale=False,
        file=sys.stderr,
        disable=os.environ.get("ADAPTINF_PROGRESS") == "0",
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
        leave=False,
    )
