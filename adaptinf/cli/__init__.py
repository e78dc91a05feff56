"""The ``adaptinf`` command: thin, one file a subcommand."""

from __future__ import annotations

from adaptinf.cli.main import main

__all__ = ["main"]
