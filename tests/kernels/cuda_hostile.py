"""Calls of the native module's CUDA entries with hostile numbers, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from adaptinf_kernels._native import native

F32, F64, I64, I8 = 0x220, 0x240, 0x40, 0x08


def tensor(dtype: int, *shape: int, pointer: str = "P", device: str = "2, 0") -> str:
    """A tensor as the module gets it, by default at P, host memory that claims to be a GPU's."""
    strides = [1] if len(shape) == 1 else [shape[1], 1]
    return f"({pointer}, {list(shape)}, {strides}, {dtype}, {device})"


def outcomes_of(calls: list[str], size: str) -> dict[str, str]:
    """Call -> the error it raised, all in one process; ``size`` is what SIZE means in them where CUDA was built."""
    lines = [
        "import ctypes, json, sys",
        f"sys.path.insert(0, {str(Path(native().__file__).parent.parent)!r})",
        "from adaptinf_kernels import _C",
        "memory = (ctypes.c_int64 * (1 << 15))()",
        "P = (ctypes.addressof(memory) + 255) // 256 * 256",
        f"SIZE = {size} if _C.build_info()['cuda']['built'] else 1",
        "found = {}",
    ]
    for one in calls:
        lines += [
            f"print({one!r}, file=sys.stderr, flush=True)",
            "try:",
            f"    {one}",
            f"    found[{one!r}] = 'no error'",
            "except (ValueError, TypeError, RuntimeError) as error:",
            f"    found[{one!r}] = str(error)",
        ]
    lines += ["assert not any(memory), 'memory was written'", "print(json.dumps(found))"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"died in {done.stderr[-800:]}"
    return json.loads(done.stdout)
