"""Choosing tasks by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from adaptinf.errors import ConfigError

Item = TypeVar("Item")


def choose(known: Mapping[str, Item], names: Iterable[str]) -> list[Item]:
    """The named items, in the order of the names.

    Raises:
        ConfigError: a name is unknown (the nearest one is given) or stands twice.
    """
    chosen: dict[str, Item] = {}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"known tasks: {', '.join(known)}"
            raise ConfigError("unknown task", item=f"data.order: {name}", remedy=remedy)
        if name in chosen:
            raise ConfigError("stands twice", item=f"data.order: {name}", remedy="name every task once")
        chosen[name] = known[name]
    return list(chosen.values())
