"""Which functions the native module has and what they take, as a digest: setup.py builds it in, loading compares it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest(csrc: Path) -> str:
    """Of the sources that bind functions, and of what tensors cross as."""
    files = [*csrc.glob("*/bind*.cpp"), csrc / "binding.h", csrc / "bindings.cpp", csrc / "common" / "tensor_view.h"]
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(f"{file.relative_to(csrc).as_posix()}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()
