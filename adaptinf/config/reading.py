"""Settings from YAML and ``--key value``, checked against the dataclasses of the schema, and back to YAML."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from adaptinf.config.schema import RunConfig
from adaptinf.errors import ConfigError

Config = TypeVar("Config")


def load_config(source: Path | str | Mapping[str, Any], overrides: Mapping[str, str] | None = None) -> RunConfig:
    """Read a run's settings from a YAML file or a mapping; overrides are ``{"training.steps": "10"}``, values as YAML.

    Raises:
        ConfigError: the file cannot be read, a key is unknown (the nearest valid one is named), or a value has the
            wrong type, is not one of the choices or is out of bounds.
    """
    raw = _read_yaml(Path(source)) if isinstance(source, (str, Path)) else source
    tree = to_dict(from_dict(RunConfig, raw))
    for key, text in (overrides or {}).items():
        _override(tree, key, text)
    return from_dict(RunConfig, tree)


def from_dict(cls: type[Config], raw: Any, path: str = "") -> Config:
    """A dataclass of this module from plain data; ``path`` is where in the file it stands, for the messages."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"expected keys and values, got {raw!r}", item=path or "configuration", remedy=_keys_of(cls))
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in hints:
            raise _unknown_key(cls, str(key), path)
        values[key] = _coerce(value, hints[key], _join(path, key))
    for field in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType]
        if field.name in values:
            _check_bounds(field, values[field.name], _join(path, field.name))
    return cls(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """Every key with its resolved value, as plain data that ``from_dict`` reads back."""
    return dataclasses.asdict(config)


def to_yaml(config: RunConfig) -> str:
    """The resolved settings; ``load_config`` of this text in a file gives an equal ``RunConfig``."""
    # plain ASCII: with allow_unicode PyYAML writes U+0085 as it is, and reads it as a space
    return yaml.safe_dump(to_dict(config), sort_keys=False, width=120)


class Key(NamedTuple):
    """One line of ``--help``."""

    name: str
    type: str
    default: Any
    help: str


def describe(cls: type = RunConfig, prefix: str = "") -> Iterator[Key]:
    """Every key, depth first, in the order of the file."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, hint = _join(prefix, field.name), hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from describe(hint, name)  # pyright: ignore[reportArgumentType]
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        yield Key(name, _type_name(hint), default, field.metadata["help"])
        for item in get_args(hint):
            if dataclasses.is_dataclass(item):
                yield from describe(item, f"{name}[]")  # pyright: ignore[reportArgumentType]


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML itself lets a key written twice silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ConfigError(f"{min(twice)!r} is written twice{node.start_mark}", remedy="keep one of them")
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> Any:
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", item=str(file), remedy="check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not YAML: {error}", item=str(file)) from error
    return {} if raw is None else raw


def _override(tree: dict[str, Any], key: str, text: str) -> None:
    """Set ``key`` in plain data to the value that ``text`` means for the type of that key."""
    *parents, last = key.replace("-", "_").split(".")
    cls: Any = RunConfig
    for depth, parent in enumerate(parents):
        hints = get_type_hints(cls)
        if not dataclasses.is_dataclass(hints.get(parent)):
            raise _unknown_key(cls, ".".join([*parents[depth:], last]), ".".join(parents[:depth]))
        cls, tree = hints[parent], tree[parent]
    hints = get_type_hints(cls)
    if last not in hints:
        raise _unknown_key(cls, last, ".".join(parents))
    options = _options(hints[last])
    if str in options:
        value = None if type(None) in options and text.lower() in {"null", "none", "~", ""} else text
    else:
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"cannot read the value {text!r}", item=key) from error
        if isinstance(value, str) and list[str] in options and not _fits_choice(value, options):
            value = [part.strip() for part in value.split(",") if part.strip()]
    tree[last] = value


def _coerce(value: Any, hint: Any, path: str) -> Any:
    """``value`` as the first option of ``hint`` that takes it, else a ConfigError naming what is allowed."""
    options = _options(hint)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, path)  # pyright: ignore[reportArgumentType]
    if (value is None and type(None) in options) or _fits_choice(value, options):
        return value
    if type(value) in options:  # bool is not int, and int stays int where both int and float are allowed
        return value
    for option in options:
        if get_origin(option) is list and isinstance(value, (list, tuple)):
            return [_coerce(item, get_args(option)[0], f"{path}[{index}]") for index, item in enumerate(value)]
    number = _number(value)
    if number is not None and int in options and number.is_integer():
        return int(number)
    if number is not None and float in options:
        return number
    raise ConfigError(f"expected {_type_name(hint)}, got {value!r}", item=path)


def _number(value: Any) -> float | None:
    """Numbers, and the text "1e-3", which YAML 1.1 does not read as a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _check_bounds(field: dataclasses.Field[Any], value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    bounds = field.metadata["bounds"]
    text = {"at_least": ">=", "above": ">", "at_most": "<="}
    wanted = " and ".join(f"{text[name]} {bound:g}" for name, bound in bounds.items())
    inside = (
        value >= bounds.get("at_least", float("-inf"))
        and value <= bounds.get("at_most", float("inf"))
        and (value > bounds["above"] if "above" in bounds else True)
    )
    if bounds and not inside:
        raise ConfigError(f"must be {wanted}, got {value!r}", item=path)
    if isinstance(value, float) and path in {"budget", "pruning.pool_budget", "selection.rehearsal"} and value > 1:
        raise ConfigError(f"a share must be <= 1, got {value!r}", item=path, remedy="write a whole number for samples")


def _unknown_key(cls: type, key: str, path: str) -> ConfigError:
    """Name the nearest key at this place, else the nearest in the whole file (a key in the wrong section)."""
    here = {_join(path, name) for name in get_type_hints(cls)}
    wrong = _join(path, key)
    near = difflib.get_close_matches(wrong, here, n=1, cutoff=0.75)
    if not near:
        deepest_first = sorted((name for name, *_ in describe()), key=lambda name: -name.count("."))
        last = {name.rpartition(".")[2]: name for name in deepest_first}
        near = [last[match] for match in difflib.get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.75)]
    remedy = f"did you mean {near[0]!r}?" if near else _keys_of(cls)
    return ConfigError("unknown key", item=wrong, remedy=remedy)


def _keys_of(cls: type) -> str:
    return "valid keys: " + ", ".join(get_type_hints(cls))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits_choice(value: Any, options: Iterable[Any]) -> bool:
    return isinstance(value, str) and any(value in get_args(one) for one in options if get_origin(one) is Literal)


def _type_name(hint: Any) -> str:
    names = []
    for option in _options(hint):
        if get_origin(option) is Literal:
            names += [str(choice) for choice in get_args(option)]
        elif get_origin(option) is list:
            names.append(f"list of {_type_name(get_args(option)[0])}")
        else:
            names.append("null" if option is type(None) else option.__name__)
    return " | ".join(names)
