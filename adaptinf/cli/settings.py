"""``--key value`` settings on the command line, and the list of all keys in ``--help``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptinf.config import Key, RunConfig, describe, load_config, to_dict
from adaptinf.errors import ConfigError


def add_settings(parser: argparse.ArgumentParser, *places: str, base: Mapping[str, Any] | None = None) -> None:
    """Let ``parser`` take these keys and sections (default: every key), listed in its ``--help``.

    ``base``: the settings that the command starts from, where they are not the defaults.
    """
    start = to_dict(load_config(base or {}))
    lines = [
        f"  {key.name} ({key.type}) = {_show(_value(start, key))}\n      {key.help}"
        for key in describe()
        if _belongs(key.name, places)
    ]
    parser.epilog = "settings, as --key value" + ("" if places else " or in the YAML file") + ":\n" + "\n".join(lines)
    parser.usage = f"{parser.format_usage().removeprefix('usage: ').strip()} [--key value ...]"
    parser.set_defaults(settings=places)


def split_settings(words: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], dict[str, str]]:
    """Take ``--key value`` and ``--key=value`` out of the words, for a parser with settings: all but its own options.

    argparse itself would give the value of a key that it does not know to a positional argument.

    Raises:
        ConfigError: a key has no value.
    """
    if parser.get_default("settings") is None:
        return list(words), {}
    rest: list[str] = []
    overrides: dict[str, str] = {}
    following = iter(words)
    for word in following:
        key, equals, value = word.partition("=")
        if not word.startswith("--") or key in parser._option_string_actions:  # noqa: SLF001 - no public way to ask
            rest.append(word)
            continue
        if not equals:
            value = next(following, None)
            if value is None:
                raise ConfigError("has no value", item=key, remedy=f"write {key} VALUE")
        overrides[key[2:]] = value
    return rest, overrides


def read_settings(arguments: argparse.Namespace, config: Path | Mapping[str, Any] | None = None) -> RunConfig:
    """The file's (or mapping's) settings, else the defaults, with what the command line says on top.

    Raises:
        ConfigError: see ``load_config``; also a key that this command does not use.
    """
    settings = load_config(config if config is not None else {}, arguments.overrides)
    for key in arguments.overrides:
        if not _belongs(key.replace("-", "_"), arguments.settings):
            raise ConfigError(
                "has no effect on this command", item=f"--{key}", remedy=f"it uses {', '.join(arguments.settings)}"
            )
    return settings


def _belongs(key: str, places: Sequence[str]) -> bool:
    return not places or any(key == place or key.startswith(f"{place}.") for place in places)


def _value(settings: Mapping[str, Any], key: Key) -> Any:
    """What ``settings`` say of a key; of a key inside a list, its default."""
    value: Any = settings
    for part in key.name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return key.default
        value = value[part]
    return value


def _show(default: object) -> str:
    if isinstance(default, list):
        return "[" + ", ".join(map(str, default)) + "]"
    return "null" if default is None else str(default)
