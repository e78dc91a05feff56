"""Saved LoRA adapters as plain factors, and how many of them a device holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adaptinf.errors import AdapterMismatchError, ConfigError
from adaptinf.models import LanguageModel
from adaptinf.routing.saved_adapter import read_saved, shape_of


class Factors(NamedTuple):
    """What an adapter adds to a module's output for input x: ``(x a) b``, the scale in ``b``."""

    a: Tensor
    """[in, r]"""
    b: Tensor
    """[r, out]"""


@dataclass(frozen=True)
class Adapter:
    """The factors of one adapter by the qualified name of the base model's module."""

    directory: Path
    factors: dict[str, Factors]

    def to(self, device: torch.device) -> Adapter:
        moved = {name: Factors(one.a.to(device), one.b.to(device)) for name, one in self.factors.items()}
        return Adapter(self.directory, moved)


def load_factors(lm: LanguageModel, directory: Path) -> Adapter:
    """Read a standard peft directory of a plain LoRA for the base model of ``lm``, into host memory.

    Raises what :func:`adaptinf.routing.saved_adapter.read_saved` does, and AdapterMismatchError for an adapter of
    another base model.
    """
    modules = dict(lm.base.named_modules())
    factors = {}
    for name, one in read_saved(directory).modules.items():
        found, expected = shape_of(one)[::-1], _sizes(modules.get(name))
        if found != expected:
            raise AdapterMismatchError(
                f"{name} does not fit {lm.name}: {found} instead of {expected}",
                item=str(directory),
                remedy="serve it with the base model that it was trained for",
            )
        factors[name] = Factors(one.a.float().T.contiguous(), (one.b.float() * one.scaling).T.contiguous())
    return Adapter(directory, factors)


class AdapterPool:
    """The adapters of many tasks: all in host memory, the ``limit`` most recently used on the device as well.

    On the CPU both are the same memory, and nothing is copied.
    """

    def __init__(self, lm: LanguageModel, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"is {limit}", item="limit", remedy="let the device hold one adapter at least")
        self.lm, self.limit = lm, limit
        self._all: dict[str, Adapter] = {}
        self._near: OrderedDict[str, Adapter] = OrderedDict()

    @property
    def names(self) -> list[str]:
        return list(self._all)

    def add(self, name: str, directory: Path) -> None:
        """Raises ConfigError for a name that is there, and what :func:`load_factors` raises."""
        if name in self._all:
            raise ConfigError("is served already", item=name, remedy="remove it first, or choose another name")
        self._all[name] = load_factors(self.lm, directory)

    def remove(self, name: str) -> None:
        """Raises ConfigError for a name that is not there."""
        self._check([name])
        del self._all[name]
        self._near.pop(name, None)

    def fetch(self, names: Sequence[str]) -> dict[str, Adapter]:
        """The adapters on the device; those of one call are all there, whatever the limit."""
        self._check(names)
        for name in names:
            if name not in self._near:
                self._near[name] = self._all[name].to(self.lm.device)
            self._near.move_to_end(name)
        found = {name: self._near[name] for name in names}
        while self.limit is not None and len(self._near) > max(self.limit, len(found)):
            self._near.popitem(last=False)
        return found

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._all:
                known = ", ".join(self._all) or "none"
                raise ConfigError("has no adapter", item=name, remedy=f"add_adapter first; served are {known}")


def _sizes(module: nn.Module | None) -> tuple[int, int] | None:
    """(in, out) of a linear module, None for anything else."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return tuple(module.weight.shape) if isinstance(module, Conv1D) else None  # pyright: ignore[reportReturnType]
