"""Parse the command line, run one subcommand, turn its failure into a message and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from adaptinf import __version__
from adaptinf.cli import cluster, dedup, demo, doctor, features, influence, prune, report, route, run, select, version
from adaptinf.cli.settings import split_settings
from adaptinf.errors import AdaptinfError

COMMANDS = {
    "run": run,
    "demo": demo,
    "features": features,
    "cluster": cluster,
    "select": select,
    "prune": prune,
    "dedup": dedup,
    "influence": influence,
    "route": route,
    "report": report,
    "doctor": doctor,
    "version": version,
}

FAILED = 2
INTERRUPTED = 130
CLOSED = 141


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 doctor or serve-check found a fault, 2 an error was explained, 130 interrupted, 141
    output closed."""
    warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing", category=FutureWarning)  # peft's
    try:
        arguments = parse(sys.argv[1:] if words is None else words)
        return arguments.execute(arguments)
    except AdaptinfError as error:
        print(f"adaptinf: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nadaptinf: interrupted; run again with the same directory to continue", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `adaptinf doctor | head`: whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command's arguments; ``overrides`` holds its ``--key value`` settings."""
    parser = argparse.ArgumentParser(
        prog="adaptinf", description="Lifelong multimodal instruction tuning: choose, train, evaluate, prune."
    )
    parser.add_argument("--version", action="version", version=f"adaptinf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").strip().splitlines()[0]
        subparser = commands.add_parser(
            name,
            help=summary,
            description=summary,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(execute=command.execute, settings=None, overrides={})
        command.add_arguments(subparser)
    overrides: dict[str, str] = {}
    leaf, depth = parser, 0
    while depth < len(words) and words[depth] in (below := _subparsers(leaf)):
        leaf, depth = below[words[depth]], depth + 1
    if depth:
        words, overrides = split_settings(words, leaf)
    arguments = parser.parse_args(words)
    arguments.overrides = overrides
    return arguments


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    return dict(actions[0].choices) if actions else {}
