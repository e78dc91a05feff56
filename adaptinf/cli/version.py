"""Print the versions of adaptinf and of what it stands on."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from adaptinf import __version__

PACKAGES = ("torch", "triton", "transformers", "peft", "numpy", "pyarrow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def execute(arguments: argparse.Namespace) -> int:
    print(f"adaptinf {__version__}")
    print(f"python {platform.python_version()}")
    for package in PACKAGES:
        print(f"{package} {installed(package) or 'not installed'}")
    return 0


def installed(package: str) -> str | None:
    """The version pip knows; imports nothing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
