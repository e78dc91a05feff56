"""Saved LoRA adapters as matrices: read and checked without their base model, written as standard peft directories."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import peft
import torch
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import Tensor

from adaptinf.errors import AdapterMismatchError, ConfigError, IdentityError, NonFiniteError
from adaptinf.models.lora import CONFIG, WEIGHTS, read_adapter, write_adapter

_WEIGHT = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_WITHOUT_EFFECT = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("lora_dropout", "fan_in_fan_out", "megatron_core", "eva_config", "runtime_config"),
}
"""Settings that change nothing of what ``scaling * B A`` is once the adapter is trained."""
_ACCOUNTED_FOR = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
_BASE_UNCHANGED = (True, False, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the base weights as they are; the others (PiSSA, OLoRA ...) move a part."""


class LowRank(NamedTuple):
    """What an adapter adds to one module's weight [out, in]: ``scaling * b @ a``."""

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[out, r]"""
    scaling: float


@dataclass(frozen=True)
class SavedAdapter:
    """``modules`` by their names in the base model; ``base`` is the base model's name, empty where none is known."""

    directory: Path
    modules: dict[str, LowRank]
    base: str
    task_type: str | None
    fan_in_fan_out: bool
    sha256: str


def read_saved(directory: Path) -> SavedAdapter:
    """The adapter of a standard peft directory, with the scaling that peft gives each module.

    ``scaling = alpha / r``, or ``alpha / sqrt(r)`` with rsLoRA, r and alpha by module where there are patterns.

    Raises ArtefactError for what is no adapter of safetensors; AdapterMismatchError for a setting or a weight that is
    not plain LoRA on linear layers (DoRA, biases, embeddings, convolutions, whole modules, inits that change the base),
    and for weights that do not fit their configuration; NonFiniteError for NaN and infinities.
    """
    config, state = read_adapter(directory)
    _check_plain(config, directory)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, weight in sorted(state.items()):
        found = _WEIGHT.fullmatch(name)
        if found is None or weight.dim() != 2 or not weight.is_floating_point():
            _refuse(directory, f"weight {name} {tuple(weight.shape)} is no factor of a linear layer")
        if not bool(torch.isfinite(weight).all()):
            raise NonFiniteError(f"weight {name} has a NaN or an infinity", item=str(directory), remedy="train it anew")
        pairs.setdefault(found["module"], {})[found["side"]] = weight
    if not pairs:
        _refuse(directory, "has no weights")
    return SavedAdapter(
        directory=directory,
        modules={name: _factors(config, name, pair, directory) for name, pair in pairs.items()},
        base=config.base_model_name_or_path or "",
        task_type=None if config.task_type is None else str(getattr(config.task_type, "value", config.task_type)),
        fan_in_fan_out=config.fan_in_fan_out,
        sha256=hashlib.sha256(b"".join((directory / name).read_bytes() for name in (CONFIG, WEIGHTS))).hexdigest(),
    )


def read_alike(directories: Sequence[Path]) -> list[SavedAdapter]:
    """Adapters of the same modules of one base model; their ranks and scalings may differ.

    Raises what :func:`read_saved` does; ConfigError for no adapter; IdentityError for another base model and
    AdapterMismatchError for other modules or shapes, naming the first adapter that differs from the first of all.
    """
    if not directories:
        raise ConfigError("is empty", item="adapters", remedy="name at least one adapter directory")
    adapters = [read_saved(Path(directory)) for directory in directories]
    first = adapters[0]
    for other in adapters[1:]:
        if first.base and other.base and other.base != first.base:
            raise IdentityError(
                f"is an adapter of {other.base!r}, {first.directory} of {first.base!r}",
                item=str(other.directory),
                remedy=f"merge adapters of one base model; if it is one, give it one name in both {CONFIG}",
            )
        for key in ("task_type", "fan_in_fan_out"):
            if getattr(other, key) != getattr(first, key):
                _refuse(
                    other.directory,
                    f"has {key} {getattr(other, key)!r}, {first.directory} has {getattr(first, key)!r}",
                    "merge adapters of one base model",
                )
        if differing := sorted(first.modules.keys() ^ other.modules.keys()):
            _refuse(
                other.directory,
                f"it and {first.directory} do not share {len(differing)} modules, among them {differing[0]}",
                "merge adapters that were trained with the same target modules",
            )
        for name, factors in other.modules.items():
            if shape_of(factors) != shape_of(first.modules[name]):
                _refuse(
                    other.directory,
                    f"{name} is {shape_of(factors)}, in {first.directory} it is {shape_of(first.modules[name])}",
                    "merge adapters of one base model",
                )
    return adapters


def write_saved(directory: Path, modules: Mapping[str, LowRank], like: SavedAdapter) -> None:
    """A peft directory whose module m adds ``scaling_m B_m A_m``; base and kind of model are those of ``like``.

    The commonest rank and alpha become the configuration's, the others its patterns.
    """
    settings = {name: (len(one.a), _alpha(one)) for name, one in modules.items()}
    (rank, alpha), _ = Counter(settings[name] for name in sorted(settings)).most_common(1)[0]
    config = peft.LoraConfig(
        task_type=like.task_type,  # pyright: ignore[reportArgumentType] - checked by name
        base_model_name_or_path=like.base,
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] - peft multiplies by it, any number does
        target_modules=sorted(modules),
        rank_pattern={f"^{name}": r for name, (r, _) in settings.items() if r != rank},
        alpha_pattern={f"^{name}": a for name, (_, a) in settings.items() if a != alpha},
        fan_in_fan_out=like.fan_in_fan_out,
    )
    state = {}
    for name, one in modules.items():
        state |= {f"base_model.model.{name}.lora_{side}.weight": w for side, w in (("A", one.a), ("B", one.b))}
    write_adapter(directory, config.to_dict(), state)


def shape_of(factors: LowRank) -> tuple[int, int]:
    """``(out, in)`` of the module's weight."""
    return factors.b.shape[0], factors.a.shape[1]


def _alpha(factors: LowRank) -> int | float:
    alpha = factors.scaling * len(factors.a)
    return int(alpha) if float(alpha).is_integer() else alpha


def _check_plain(config: peft.LoraConfig, directory: Path) -> None:
    if config.init_lora_weights not in _BASE_UNCHANGED:
        _refuse(
            directory,
            f"init_lora_weights={config.init_lora_weights!r} changes the base weights",
            "convert it to plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        plain = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name not in _WITHOUT_EFFECT | _ACCOUNTED_FOR and value != plain and value:
            _refuse(
                directory,
                f"has {field.name}={value!r}, which plain LoRA has not",
                "train it with the setting's default",
            )


def _factors(config: peft.LoraConfig, name: str, pair: Mapping[str, Tensor], directory: Path) -> LowRank:
    if len(pair) != 2:
        _refuse(directory, f"{name} has no lora_{'A' if 'B' in pair else 'B'}", "save it anew")
    try:
        targeted = check_target_module_exists(config, name)
        rank, scaling = _rank_and_scaling(config, name)
    except (TypeError, ValueError, AttributeError, ArithmeticError, re.error) as error:
        raise AdapterMismatchError(f"its configuration is not understood ({error})", item=str(directory)) from error
    if not targeted:
        _refuse(directory, f"has weights for {name}, which its target_modules leave out", "save it anew")
    a, b = pair["A"], pair["B"]
    if not rank == a.shape[0] == b.shape[1]:
        said = f"rank_pattern={config.rank_pattern}" if config.rank_pattern else f"r={config.r}"
        _refuse(
            directory, f"has {said}, the factors of {name} are {tuple(b.shape)} and {tuple(a.shape)}", "save it anew"
        )
    if not math.isfinite(scaling):
        raise NonFiniteError(f"the scaling of {name} is {scaling}", item=str(directory), remedy="correct lora_alpha")
    return LowRank(a, b, scaling)


def _rank_and_scaling(config: peft.LoraConfig, name: str) -> tuple[int, float]:
    """As peft finds them for a module."""
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(list(ranks), name), config.r)
    alpha = alphas.get(get_pattern_key(list(alphas), name), config.lora_alpha)
    return rank, alpha / math.sqrt(rank) if config.use_rslora else alpha / rank


def _refuse(
    directory: Path, problem: str, remedy: str = "merge and serve plain LoRA on linear layers, such as add_lora makes"
) -> NoReturn:
    raise AdapterMismatchError(problem, item=str(directory), remedy=remedy)
