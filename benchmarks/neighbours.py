"""Other processes that keep processors busy while a function is timed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_SPIN = """
import os, select
os.write(1, b"r")
while os.read(0, 1):
    while not select.select([0], [], [], 0)[0]:
        sum(range(10_000))
    os.read(0, 1)
"""
"""Idle until a byte comes, busy until the next; a closed pipe ends it either way, also where its parent was killed."""


class Neighbours:
    """``count`` processes that are busy during ``beside(run)`` and idle otherwise; they end with this object."""

    def __init__(self, count: int) -> None:
        command = [sys.executable, "-S", "-c", _SPIN]
        pipe = subprocess.PIPE
        self.processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0) for _ in range(count)]
        for one in self.processes:
            assert one.stdout is not None
            one.stdout.read(1)  # it has started

    def beside(self, run: Callable[[], Result]) -> Result:
        """What ``run`` returns or raises."""
        self._signal()
        try:
            return run()
        finally:
            self._signal()

    def close(self) -> None:
        """End the processes."""
        for one in self.processes:
            one.kill()
            one.communicate()

    def __del__(self) -> None:
        self.close()

    def _signal(self) -> None:
        for one in self.processes:
            assert one.stdin is not None
            one.stdin.write(b".")
