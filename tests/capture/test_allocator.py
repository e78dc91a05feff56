"""Memory kept between batches: fewer page faults, and nothing changed where malloc's thresholds are set."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc's thresholds are glibc's"),
    pytest.mark.no_cover,  # whose tracer takes memory as well
]

_PROGRAM = """
import resource, sys
from contextlib import nullcontext
import torch
from adaptinf.capture.allocator import freed_memory_kept

torch.ones(1 << 20)
with freed_memory_kept() if sys.argv[1] == "kept" else nullcontext():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for mib in range(1, 25):  # ever larger blocks: to glibc each is the first of its size, so it is mapped and unmapped
        torch.empty(mib << 18).fill_(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_PAGES = sum(range(1, 25)) * (1 << 20) // os.sysconf("SC_PAGE_SIZE")


def _faults(mode: str, **environment: str) -> int:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _PROGRAM, mode]
    return int(subprocess.run(command, env=plain | environment, capture_output=True, text=True, check=True).stdout)


def test_freed_memory_is_used_again():
    plain, kept = _faults("plain"), _faults("kept")
    assert plain > _PAGES / 2, "glibc would have kept it by itself: the comparison shows nothing"
    assert kept < plain / 4


def test_thresholds_of_the_environment_stay():
    assert _faults("kept", MALLOC_MMAP_THRESHOLD_=str(1 << 20)) > _PAGES / 2
