"""Building the native module for the GPU that is here."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.orchestrate import GRACE, ROOT

BUDGET = 9 * 60.0 - GRACE
"""Seconds for build and measurements; with the grace of the last case still under nine minutes."""


def build(budget: float) -> float:
    """Compile the native module in place, its CUDA part for this device alone; the seconds it took.

    Raises ValueError where there is no CUDA device, or nvcc fails.
    """
    start = time.monotonic()
    architecture = _architecture()
    print(f"building for sm_{architecture}", file=sys.stderr)
    environment = {**os.environ, "ADAPTINF_CUDA": "1", "ADAPTINF_CUDA_ARCHS": architecture}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=budget
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the build took longer than {budget:.0f} s") from error
    if done.returncode:
        raise ValueError(f"the build failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return time.monotonic() - start


def _architecture() -> str:
    """``90a`` for compute capability 9.0; asked of torch in a process of its own, as this one stays without it."""
    program = "import torch; print(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    found = done.stdout.split()
    if done.returncode or len(found) != 2:
        raise ValueError(
            "torch sees no CUDA device here; `python -m benchmarks gpu --dry-run` runs everything without one"
            + (f"\n{done.stderr.strip()[-1000:]}" if done.returncode else "")
        )
    return f"{found[0]}{found[1]}" + ("a" if found[0] == "9" else "")
