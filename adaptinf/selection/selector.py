"""What every way of choosing samples has in common, and how one is found by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from adaptinf.config import SelectionConfig
from adaptinf.errors import ConfigError
from adaptinf.selection.pool import Needs, Pool, Selection
from adaptinf.selection.quota import new_share, text_share

ENTRY_POINTS = "adaptinf.selectors"


@runtime_checkable
class Selector(Protocol):
    """Chooses the training samples of one step."""

    name: str

    def needs(self) -> Needs:
        """The parts of a pool that ``select`` reads."""
        ...

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        """Decide over every sample of the pool; ``budget`` is in samples, at most ``len(pool)``."""
        ...


Factory = Callable[[SelectionConfig], Selector]
_FACTORIES: dict[str, Factory] = {}


def register_selector(name: str) -> Callable[[Factory], Factory]:
    """Decorate the factory of a selector: a callable that takes a ``SelectionConfig`` and returns a ``Selector``.

    A package that is not imported by itself registers such a callable under the entry point group
    ``adaptinf.selectors`` instead.

    Raises:
        ConfigError: the name is taken.
    """

    def register(factory: Factory) -> Factory:
        if name in _FACTORIES:
            raise ConfigError("a selector of this name exists", item=name, remedy="choose another name")
        _FACTORIES[name] = factory
        return factory

    return register


def selector_names() -> list[str]:
    """Every name that ``make_selector`` knows, those of entry points included."""
    return sorted({*_FACTORIES, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def make_selector(name: str, config: SelectionConfig | None = None) -> Selector:
    """The selector of this name, made for these settings (default: the defaults); ``new_share`` splits its budget
    between what arrives and the rest, and ``text_share`` that of either between text and pictures.

    A registered name wins over an entry point of the same name.

    Raises:
        ConfigError: the name is unknown (the nearest one is named), or its entry point makes no selector.
    """
    config = config or SelectionConfig()
    selector = _make(name, config)
    for split, share in ((text_share, config.text_share), (new_share, config.new_share)):
        selector = selector if share is None else split(selector, share)
    return selector


def _make(name: str, config: SelectionConfig) -> Selector:
    if name in _FACTORIES:
        return _FACTORIES[name](config)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            selector = point.load()(config)
            if not isinstance(selector, Selector):
                raise ConfigError(f"{point.value} made {selector!r}, which is no Selector", item=name)
            return selector
    near = difflib.get_close_matches(name, selector_names(), n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(selector_names())}"
    raise ConfigError("unknown selector", item=name, remedy=remedy)
