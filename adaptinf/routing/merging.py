"""Several saved LoRA adapters of one base as one, for all layers (merge) or below a split (fuse, HiDe-LLaVA)."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adaptinf.errors import AdapterMismatchError, ArtefactError, ConfigError, NonFiniteError
from adaptinf.models import LanguageModel
from adaptinf.routing import operators
from adaptinf.routing.saved_adapter import LowRank, SavedAdapter, read_alike, shape_of, write_saved
from adaptinf.store import create, write_json

Method = Literal["cat", "svd", "product_of_sums", "linear", "ties", "dare_linear", "dare_ties"]
_PRUNING = ("ties", "dare_linear", "dare_ties")
_EQUAL_RANKS = ("product_of_sums", "linear", *_PRUNING)


@dataclass(frozen=True)
class Merging:
    """How adapters are merged; each method's formula is the docstring of its name in :mod:`adaptinf.routing.operators`.

    ``weights``: w_i, one an adapter; left out, all are 1 (HiDe's sum). ``rank``: of ``svd``, required there.
    ``density``: share of entries that ``ties`` and ``dare_*`` keep, in (0, 1], required there. ``seed`` and a module's
    name decide what ``dare_*`` drops there. Raises ConfigError for an impossible value or one that the method ignores.
    """

    method: Method
    weights: Sequence[float] | None = None
    rank: int | None = None
    density: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"is {self.method!r}", item="method", remedy=f"choose from {', '.join(get_args(Method))}")
        for name, given, methods in (("rank", self.rank, ("svd",)), ("density", self.density, _PRUNING)):
            if (given is None) == (self.method in methods):
                raise ConfigError(
                    f"is {given!r} with {self.method}",
                    item=name,
                    remedy=f"give it with {', '.join(methods)}, only there",
                )
        if self.rank is not None and (type(self.rank) is not int or self.rank < 1):
            raise ConfigError(f"is {self.rank!r}", item="rank", remedy="give a whole number of 1 or more")
        if self.density is not None and not (_is_number(self.density) and 0 < self.density <= 1):
            raise ConfigError(f"is {self.density!r}", item="density", remedy="give a number in (0, 1]")
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise ConfigError(f"is {self.seed!r}", item="seed", remedy="give a whole number in [0, 2^32)")
        if self.weights is not None and self.method == "product_of_sums":
            raise ConfigError("product_of_sums has none", item="weights", remedy="use linear, its weighted form")

    def weights_of(self, count: int) -> list[float]:
        return _weights(self.weights, count)


@dataclass(frozen=True)
class Merged:
    """``relative_error``: ``||written - M||_F / ||M||_F`` with ``M = sum_i w_i s_i B_i A_i``, measured on the float32
    factors that were written, over all modules together; ``relative_errors`` the same by module. 0 where both are 0,
    infinite where only M is. ``rank`` is the largest of a module.
    """

    directory: Path
    rank: int
    relative_error: float
    relative_errors: dict[str, float]


@dataclass(frozen=True)
class Fused:
    """``directories`` by task; layers ``fused`` are equal in all of them, layers ``own`` are each task's."""

    directories: dict[str, Path]
    fused: list[int]
    own: list[int]
    relative_error: float
    """As in :class:`Merged`, of the fused layers."""


def merge(adapters: Sequence[Path], directory: Path, how: Merging) -> Merged:
    """Write one standard peft directory that stands for all ``adapters``, with ``merge.json`` beside the weights.

    ``adapters`` are peft directories of the same modules of one base; ranks, alphas and rsLoRA may differ where the
    method allows it. LowRank are written in float32, the scaling inside them.

    Raises ArtefactError where ``directory`` exists or an adapter cannot be read; AdapterMismatchError, IdentityError or
    NonFiniteError naming the adapter that cannot be merged; ConfigError for settings that do not fit the adapters.
    """
    read = read_alike(adapters)
    _check_fit(read, how)
    _check_absent(directory)
    modules, errors = _merged(read, how, sorted(read[0].modules))
    result = Merged(
        directory=directory,
        rank=max(len(one.a) for one in modules.values()),
        relative_error=_total(errors.values()),
        relative_errors={name: _ratio(*error) for name, error in errors.items()},
    )
    about = {**_lineage(read, how), **dataclasses.asdict(result)}
    del about["directory"]
    with create(directory, _lineage(read, how)) as staging:
        write_saved(staging, modules, like=read[0])
        write_json(staging / "merge.json", about)
    return result


def fuse(adapters: Mapping[str, Path], directory: Path, how: Merging, *, split: int) -> Fused:
    """HiDe-LLaVA's division: layers before ``split`` get the merged adapter, the others keep each task's own.

    Writes ``directory/<task>``, a standard peft directory for each task, and ``directory/fusion.json``. Layers count
    from 0; ``split`` is the first that is not fused (``similarity.split_layer`` measures it): 0 fuses nothing, the
    number of layers everything. A task's own layers keep their bits.

    Raises what :func:`merge` does; ConfigError for a split beyond the layers or a name that is no folder's;
    AdapterMismatchError where the modules are not all in one list of layers.

    Source: arXiv:2503.12941; its code fixes the split at the last layer.
    """
    for name in adapters:
        if not name or name.startswith(".") or Path(name).name != name:
            raise ConfigError("cannot name a folder", item=f"task {name!r}", remedy="give a plain name")
    read = read_alike(list(adapters.values()))
    layers = _layers(read[0])
    count = max(layers.values()) + 1
    if type(split) is not int or not 0 <= split <= count:
        raise ConfigError(
            f"is {split!r}, the adapters' layers end before {count}", item="split", remedy=f"give 0 to {count}"
        )
    lower = [name for name in sorted(layers) if layers[name] < split]
    _check_fit(read, how)
    _check_absent(directory)
    modules, errors = _merged(read, how, lower)
    fused = Fused(
        directories={name: directory / name for name in adapters},
        fused=sorted({layers[name] for name in lower}),
        own=sorted({layer for layer in layers.values() if layer >= split}),
        relative_error=_total(errors.values()),
    )
    lineage = {**_lineage(read, how), "tasks": list(adapters), "split": split}
    with create(directory, lineage) as staging:
        for name, adapter in zip(adapters, read, strict=True):
            write_saved(staging / name, adapter.modules | modules, like=adapter)
        about = {"fused": fused.fused, "own": fused.own, "relative_error": fused.relative_error}
        write_json(staging / "fusion.json", {**lineage, **about})
    return fused


@torch.no_grad()
def add_to_base(lm: LanguageModel, adapters: Sequence[Path], weights: Sequence[float] | None = None) -> None:
    """Add ``sum_i w_i s_i B_i A_i`` to ``lm``'s own weights: summed in float64, rounded once to the weights' dtype.

    Raises what :func:`merge` does, ConfigError where ``lm`` has an adapter, AdapterMismatchError where a module is not
    the model's; the model is then unchanged.
    """
    read = read_alike(adapters)
    factors = _weights(weights, len(read))
    if hasattr(lm.model, "peft_config"):
        raise ConfigError("has an adapter", item=lm.name, remedy="merge_lora or remove_lora first")
    targets = {name: _weight(lm, name, read[0]) for name in read[0].modules}
    for name, weight in targets.items():
        delta = operators.sum_of_products([adapter.modules[name] for adapter in read], factors)
        weight.copy_(weight.double() + delta.to(weight.device))


def _weight(lm: LanguageModel, name: str, adapter: SavedAdapter) -> Tensor:
    """The weight of a linear layer of the model, as [out, in]."""
    module = dict(lm.model.named_modules()).get(name)
    remedy = "use the model that it was trained for"
    if not isinstance(module, (nn.Linear, Conv1D)) or not module.weight.is_floating_point():
        _refuse(adapter, f"{name} is no floating-point linear layer of {lm.name}", remedy)
    if sum(module.weight is one for _, one in lm.model.named_parameters(remove_duplicate=False)) > 1:
        _refuse(adapter, f"the weight of {name} is tied to another module's", "untie it, or load the adapter instead")
    weight = module.weight.T if isinstance(module, Conv1D) else module.weight
    if weight.shape != shape_of(adapter.modules[name]):
        _refuse(adapter, f"{name} is {shape_of(adapter.modules[name])}, in {lm.name} {tuple(weight.shape)}", remedy)
    return weight


def _merged(
    adapters: Sequence[SavedAdapter], how: Merging, names: Sequence[str]
) -> tuple[dict[str, LowRank], dict[str, tuple[float, float]]]:
    """The float32 factors by module, and ``(||written - M||, ||M||)``."""
    weights = how.weights_of(len(adapters))
    modules, errors = {}, {}
    for name in names:
        parts = [adapter.modules[name] for adapter in adapters]
        exact = operators.cat(parts, weights)
        made = _apply(how, name, parts, weights)
        made = made._replace(a=made.a.float(), b=made.b.float())
        if not bool(torch.isfinite(made.a).all() and torch.isfinite(made.b).all()):
            raise NonFiniteError(
                f"{name} overflows float32", item=f"merging by {how.method}", remedy="lower the weights"
            )
        modules[name] = made
        errors[name] = (operators.norm(operators.cat([made, exact], [1.0, -1.0])), operators.norm(exact))
    return modules, errors


def _apply(how: Merging, name: str, parts: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    if how.method == "product_of_sums":
        return operators.product_of_sums(parts)
    if how.method == "svd":
        assert how.rank is not None  # __post_init__ saw to it
        return operators.svd(parts, weights, how.rank)
    if how.method in ("cat", "linear"):
        return (operators.cat if how.method == "cat" else operators.linear)(parts, weights)
    assert how.density is not None  # as above
    if how.method == "ties":
        return operators.ties(parts, weights, how.density)
    seed = int.from_bytes(hashlib.sha256(f"{how.seed}:{name}".encode()).digest()[:7], "big")
    dare = operators.dare_linear if how.method == "dare_linear" else operators.dare_ties
    return dare(parts, weights, how.density, seed)


def _check_fit(adapters: Sequence[SavedAdapter], how: Merging) -> None:
    """What the method asks of the adapters' ranks and scalings."""
    how.weights_of(len(adapters))
    first = adapters[0]
    if how.method == "svd":
        largest = max(sum(len(one.modules[name].a) for one in adapters) for name in first.modules)
        if how.rank is not None and how.rank > largest:
            raise ConfigError(
                f"is {how.rank}, the exact sum has {largest}", item="rank", remedy=f"give at most {largest}, or use cat"
            )
    if how.method not in _EQUAL_RANKS:
        return
    for other in adapters[1:]:
        for name, one in other.modules.items():
            ranks = len(one.a), len(first.modules[name].a)
            if ranks[0] != ranks[1]:
                _refuse(
                    other,
                    f"{name} has rank {ranks[0]}, in {first.directory} {ranks[1]}: {how.method} needs equal ranks",
                    "use cat or svd",
                )
            scalings = one.scaling, first.modules[name].scaling
            if how.method == "product_of_sums" and scalings[0] != scalings[1]:
                _refuse(
                    other,
                    f"{name} has scaling {scalings[0]}, in {first.directory} {scalings[1]}: product_of_sums has one",
                    "use linear, or cat for the exact sum",
                )


def _weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count or not all(_is_number(weight) for weight in weights):
        raise ConfigError(f"are {list(weights)}", item="weights", remedy=f"give {count} finite numbers, one an adapter")
    return [float(weight) for weight in weights]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _layers(adapter: SavedAdapter) -> dict[str, int]:
    """The decoder layer of each module: the first number in its name, whose list must be the same for all."""
    found = {name: re.match(r"(.*?)\.(\d+)\.", name) for name in adapter.modules}
    lists = sorted({match[1] if match else name for name, match in found.items()})
    if len(lists) > 1:
        _refuse(
            adapter, f"its modules are in no one list of layers: {', '.join(lists[:4])}", "fuse decoder layers alone"
        )
    layers = {name: int(match[2]) for name, match in found.items() if match}
    if not layers:
        _refuse(adapter, f"its module {lists[0]} is in no layer", "fuse decoder layers alone")
    return layers


def _lineage(adapters: Sequence[SavedAdapter], how: Merging) -> dict[str, Any]:
    return {
        "merging": {**dataclasses.asdict(how), "weights": how.weights_of(len(adapters))},
        "base": adapters[0].base,
        "adapters": [{"directory": str(one.directory), "sha256": one.sha256} for one in adapters],
    }


def _check_absent(directory: Path) -> None:
    if directory.exists():
        raise ArtefactError(
            "exists already", item=str(directory), remedy="choose another directory, or delete this one"
        )


def _total(errors: Collection[tuple[float, float]]) -> float:
    return _ratio(*(math.hypot(*(error[i] for error in errors)) for i in (0, 1)))


def _ratio(difference: float, size: float) -> float:
    return difference / size if size else 0.0 if difference == 0 else math.inf


def _refuse(adapter: SavedAdapter, problem: str, remedy: str) -> NoReturn:
    raise AdapterMismatchError(problem, item=str(adapter.directory), remedy=remedy)
