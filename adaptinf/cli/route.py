"""Serve many adapters: learn a router for adapters that exist, score it, or check that everything would serve."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptinf.cli.pool import output_file
from adaptinf.cli.samples import read_samples
from adaptinf.cli.settings import add_settings, read_settings
from adaptinf.errors import ConfigError

if TYPE_CHECKING:
    from adaptinf.config import RunConfig
    from adaptinf.data import TaskStream
    from adaptinf.models import LanguageModel

FAULTY = 1
_CHECKED = 2
"""Requests of each task that ``serve-check`` answers both ways."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    train, score, check = (
        actions.add_parser(
            name,
            help=summary,
            description=summary,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, summary in (
            ("train", "learn a router for adapters that exist"),
            ("eval", "score the routes and the answers on the test data"),
            (
                "serve-check",
                "answer with every adapter, routed and by plain peft; exit code 1 where these differ",
            ),
        )
    )
    train.add_argument("config", type=Path, help="YAML file of settings: data, model and routing")
    train.add_argument(
        "--adapter",
        action="append",
        required=True,
        metavar="TASK=DIR",
        help="the peft directory that answers a task of the data; once for every task",
    )
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the routed model is written")
    for action in (score, check):
        action.add_argument("routed", type=Path, help="a routed model: routed/ of a run, or what train wrote")
    score.add_argument("--outside", type=Path, metavar="FILE", help="JSON Lines (or .gz): requests that no task is for")
    score.add_argument("--out", type=Path, metavar="FILE", help="JSON file of the result (default: print it)")
    check.add_argument("--max-rank", type=int, default=64, help="largest rank that the server takes (%(default)s)")
    for action, act in ((train, _train), (score, _evaluate), (check, _serve_check)):
        action.set_defaults(act=act)
        add_settings(action)


def execute(arguments: argparse.Namespace) -> int:
    return arguments.act(arguments)


def _train(arguments: argparse.Namespace) -> int:
    config = read_settings(arguments, arguments.config)
    stream, lm = _open(config)

    from adaptinf.routing import RoutedModel
    from adaptinf.routing.configured import ConfiguredRouting
    from adaptinf.routing.routed import save_routed_model

    adapters = _adapters(arguments.adapter, stream)
    router = ConfiguredRouting(config, lm, adapters).new()
    model = RoutedModel(lm, router)
    for task, directory in adapters.items():
        model.add_adapter(task, directory)
    for task in stream:
        if task.name in adapters:
            router.add_task(task.name, task.train)
    save_routed_model(arguments.out, config, router, adapters)
    print(f"routes to {len(adapters)} adapters: {arguments.out}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from adaptinf.routing.measure import measure_routing
    from adaptinf.routing.routed import load_routed_model
    from adaptinf.store import write_json
    from adaptinf.store.io import json_bytes

    config = _settings(arguments)
    stream, lm = _open(config)
    outside = read_samples(arguments.outside, config) if arguments.outside is not None else []
    found = measure_routing(load_routed_model(arguments.routed, lm), stream, outside, config)
    if arguments.out is None:
        print(json_bytes(found).decode(), end="")
        return 0
    write_json(output_file(arguments.out), found)
    print(f"{100 * found['routing_accuracy']:.1f} % of the requests reach their own task: {arguments.out}")
    return 0


def _serve_check(arguments: argparse.Namespace) -> int:
    from adaptinf.routing.routed import ADAPTERS, load_routed_model
    from adaptinf.routing.serve_check import serve_problems

    config = _settings(arguments)
    stream, lm = _open(config)
    model = load_routed_model(arguments.routed, lm)
    requests = {task.name: task.test[:_CHECKED] for task in stream}
    faults = 0
    for name in model.adapters.names:
        directory = arguments.routed / ADAPTERS / name
        problems = serve_problems(model, name, directory, requests.get(name, ()), max_rank=arguments.max_rank)
        print(f"{name:24} {'ok' if not problems else '; '.join(problems)}")
        faults += bool(problems)
    print(f"{len(model.adapters.names) - faults} of {len(model.adapters.names)} adapters serve: {arguments.routed}")
    return FAULTY if faults else 0


def _open(config: RunConfig) -> tuple[TaskStream, LanguageModel]:
    from adaptinf.models import load_model
    from adaptinf.tuning import open_stream

    stream, pretraining = open_stream(config)
    return stream, load_model(config.model, pretraining=pretraining, cache=config.cache_dir)


def _settings(arguments: argparse.Namespace) -> RunConfig:
    """The routed model's own, with what the command line says on top."""
    from adaptinf.config import to_dict
    from adaptinf.routing.routed import read_routed_settings

    return read_settings(arguments, to_dict(read_routed_settings(arguments.routed)))


def _adapters(given: Sequence[str], stream: TaskStream) -> dict[str, Path]:
    """``TASK=DIR`` by task, in the order of the stream."""
    found: dict[str, Path] = {}
    names = [task.name for task in stream]
    for word in given:
        task, equals, directory = word.partition("=")
        if not equals or not directory:
            raise ConfigError("is not TASK=DIR", item=f"--adapter {word}", remedy="write --adapter task=directory")
        if task not in names:
            raise ConfigError(
                "is no task of the data", item=f"--adapter {word}", remedy=f"the tasks are {', '.join(names)}"
            )
        if task in found:
            raise ConfigError("is given twice", item=f"--adapter {word}", remedy="keep one of them")
        found[task] = Path(directory)
    return {name: found[name] for name in names if name in found}
