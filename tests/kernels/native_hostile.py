"""Calls of the native module with hostile numbers, in a process of their own: an error, never a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from adaptinf_kernels._native import native

F32, F64, I8, I64 = 0x220, 0x240, 0x08, 0x40

CPU_ERRORS = "ValueError, TypeError"
CUDA_ERRORS = "ValueError, TypeError, RuntimeError"  # the last: there is no GPU


def tensor(dtype: int, *shape: int, pointer: str = "P", device: str = "2, 0") -> str:
    """A tensor as the module gets it, by default at P, host memory that claims to be a GPU's."""
    strides = [1] if len(shape) == 1 else [shape[1], 1]
    return f"({pointer}, {list(shape)}, {strides}, {dtype}, {device})"


def outcomes_of(
    calls: Iterable[str], *, setup: Sequence[str] = (), right: Sequence[str] = (), errors: str = CPU_ERRORS
) -> dict[str, str]:
    """Call -> the message of the one of ``errors`` that it raised, all in one process; another error ends it.

    The calls may name P, memory to read that holds zeros, Q, memory to write that holds ones in all bits, and what the
    lines of ``setup`` define. None may write to either; after them those that are ``right`` must pass.
    """
    lines = [
        "import ctypes, json, sys",
        f"sys.path.insert(0, {str(Path(native().__file__).parent.parent)!r})",
        "from adaptinf_kernels import _C",
        "read, written = (ctypes.c_int64 * (1 << 15))(), (ctypes.c_int64 * 512)(*[-1] * 512)",
        "P, Q = (ctypes.addressof(read) + 255) // 256 * 256, ctypes.addressof(written)",
        *setup,
        "found = {}",
    ]
    for call in calls:
        lines += [
            f"print({call!r}, file=sys.stderr, flush=True)",
            "try:",
            f"    {call}",
            f"    found[{call!r}] = 'no error'",
            f"except ({errors}) as error:",
            f"    found[{call!r}] = str(error)",
        ]
    lines += ["assert not any(read) and all(word == -1 for word in written), 'memory was written'"]
    lines += [*right, "print(json.dumps(found))"]
    script = "\n".join(lines)
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"died in {done.stderr[-800:]}"
    return json.loads(done.stdout)
