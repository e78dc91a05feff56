"""Building and running the drivers of CUDA kernels on the CPU (cuda_shim)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FLAGS = ["-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]

Build = Callable[[str], Path]
"""Sanitizers -> the driver built with them, once."""


def builder(repository: Path, folder: Path, driver: str, *kernels: str) -> Build:
    """Builds ``driver`` of the shim with the ``kernels`` of csrc into ``folder``."""
    if platform.machine() != "x86_64":
        pytest.skip("the shim switches stacks in x86-64 assembly")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    built: dict[str, Path] = {}

    def build(sanitizers: str) -> Path:
        if sanitizers not in built:
            shim, csrc = repository / "tests" / "kernels" / "cuda_shim", repository / "csrc"
            target = folder / sanitizers
            flags = [*FLAGS, f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-I{shim}", f"-I{csrc}"]
            sources = [str(shim / driver), "-x", "c++", *(str(csrc / name) for name in kernels)]
            done = subprocess.run(
                [compiler, *flags, *sources, "-o", str(target)], capture_output=True, text=True, check=False
            )
            if "cannot find -l" in done.stderr or "cannot find lib" in done.stderr:
                pytest.skip(f"this compiler has no sanitizers {sanitizers}")
            assert done.returncode == 0, done.stderr[-3000:]
            built[sanitizers] = target
        return built[sanitizers]

    return build


def run(driver: Path, folder: Path, seed: int = 1, left_out: str = "") -> subprocess.CompletedProcess[str]:
    """The driver's run on ``folder / "in"``; its output is ``folder / "out"``."""
    command = [str(driver), str(folder / "in"), str(folder / "out"), str(seed), *([left_out] if left_out else [])]
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1 history_size=0"}
    environment = {**os.environ, **options}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def unneeded_barriers(
    checked: Callable[[], object], rerun: Callable[[str], subprocess.CompletedProcess[str]], output: Path
) -> tuple[set[str], set[str]]:
    """(needed, unneeded) places where threads wait in one run, by leaving out one after the other.

    ``checked`` runs and checks all; ``rerun`` runs again without one place, none for ''. A place is needed where the
    sanitizer reports a race, threads wait in vain, or the bits are others.
    """
    checked()
    expected = output.read_bytes()
    sites = {line.split()[-1] for line in rerun("").stdout.splitlines()}
    assert len(sites) >= 4
    needed = {site for site in sites if rerun(site).returncode != 0 or output.read_bytes() != expected}
    return needed, sites - needed
