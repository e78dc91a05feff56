"""C++ drivers of the native module under sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def run_sanitized(
    repository: Path, scratch: Path, driver: str, sources: Sequence[str], sanitizers: str = "address,undefined"
) -> int:
    """Build ``tests/kernels/<driver>`` with these folders or files of ``csrc`` (bindings aside), run it, and return
    the number that it prints: how many calls it made. What a sanitizer finds fails the test."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    csrc, program = repository / "csrc", scratch / "driver"
    places = [csrc / source for source in sources]
    files = [file for place in places for file in (sorted(place.glob("*.cpp")) if place.is_dir() else [place])]
    files = [file for file in files if not file.name.startswith("bind")]
    flags = ["-std=c++17", "-O1", "-g1", f"-I{csrc}", "-D_GLIBCXX_ASSERTIONS", "-pthread", "-fno-math-errno"]
    flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    command = [compiler, *flags, *map(str, files), str(repository / "tests" / "kernels" / driver)]
    built = subprocess.run([*command, "-o", str(program), "-ldl"], capture_output=True, text=True, check=False)
    if any(f"cannot find -l{library}" in built.stderr for library in ("asan", "ubsan", "tsan")):
        pytest.skip("this compiler has no sanitizers")
    assert built.returncode == 0, built.stderr[-2000:]
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout)
