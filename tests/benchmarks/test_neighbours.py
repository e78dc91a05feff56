"""Busy processes are busy beside a function and at no other time, and they end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.neighbours import Neighbours

STAT = Path("/proc/self/stat")
pytestmark = pytest.mark.skipif(not STAT.exists(), reason="the time of other processes is read from /proc")


def spent(process: int) -> float:
    """Seconds of a processor, user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_busy(processes: list[int]) -> None:
    """Returns once each has spent another tenth of a second."""
    goals = [spent(one) + 0.1 for one in processes]
    until(lambda: all(spent(one) >= goal for one, goal in zip(processes, goals, strict=True)))


def gone(process: str) -> bool:
    """It has ended, whether or not somebody asked for its status."""
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_they_are_busy_beside_a_function_and_idle_after_it() -> None:
    neighbours = Neighbours(2)
    processes = [one.pid for one in neighbours.processes]
    assert neighbours.beside(lambda: until_busy(processes) or 7) == 7
    with pytest.raises(ZeroDivisionError):
        neighbours.beside(lambda: 1 // 0)
    time.sleep(0.2)  # the byte that stops them is on its way
    before = [spent(one) for one in processes]
    time.sleep(0.3)
    assert [spent(one) for one in processes] == pytest.approx(before, abs=0.03)
    neighbours.beside(lambda: until_busy(processes))


def test_they_end_with_the_object_and_with_their_parent(repository: Path) -> None:
    neighbours = Neighbours(2)
    processes = [one.pid for one in neighbours.processes]
    del neighbours
    gc.collect()
    assert not any(Path(f"/proc/{one}").exists() for one in processes)
    program = (
        "import os; from benchmarks.neighbours import Neighbours; n = Neighbours(2)\n"
        "print(*[one.pid for one in n.processes], flush=True)\n"
        "n.beside(lambda: os.kill(os.getpid(), 9))"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, check=False)
    assert killed.returncode == -9
    until(lambda: all(map(gone, killed.stdout.decode().split())))
