"""The machine, the versions and the machine's peaks, as every result file states them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import adaptinf_kernels
import torch

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "triton", "numpy", "transformers", "peft", "tokenizers", "adaptinf")
PEERS = ("traker", "fast_jl", "opacus", "dattri", "sjlt", "bergson", "liger_kernel")
"""Distributions that cases compare with; all optional."""

_FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "amx_bf16", "neon", "sve")


def facts(device: torch.device) -> dict[str, Any]:
    """Processor, memory, threads, native build, and the GPU with its driver where there is one."""
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cpu_flags": cpu_flags(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "native": adaptinf_kernels.build_info(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": round(properties.L2_cache_size / 2**20, 1),
            "driver": driver(),
            "cuda": torch.version.cuda,
        }
    return found


def hardware(found: dict[str, Any]) -> str:
    """A folder's name for machines of this kind: ``nvidia-h200`` or ``amd-epyc-2-threads``."""
    name = found["gpu"]["name"] if "gpu" in found else f"{found['cpu']} {found['threads']} threads"
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.machine()


def cpu_flags() -> list[str]:
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [flag for flag in _FLAGS if flag in flags]


def _cpuinfo(key: str) -> str:
    try:
        found = re.search(rf"^{key}\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""


def driver() -> str:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown"


def commit() -> str:
    """The commit of this tree, with "-dirty" where it was changed; "unknown" outside a repository."""
    sha = _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    if not sha:
        return "unknown"
    return sha + ("-dirty" if _output("git", "-C", str(ROOT), "status", "--porcelain", "-uno") else "")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Version of each distribution, or "not installed"."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def peaks(device: torch.device, *, tiny: bool) -> dict[str, float]:
    """Best of several: bytes a second of a copy (read + written), and operations a second of a square product.

    On a CPU the faster of torch's own product and oneDNN's, as torch's does not use AVX-512 on every processor.
    """
    numbers = (1 << 22) if tiny else (1 << 28 if device.type == "cuda" else 1 << 26)
    side = 256 if tiny else (8192 if device.type == "cuda" else 2048)
    source = torch.rand(numbers, device=device)
    target = torch.empty_like(source)
    found = {"copy": 8 * numbers / _fastest(lambda: target.copy_(source), device)}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(side, side, device=device, dtype=dtype)
        b = torch.randn(side, side, device=device, dtype=dtype)
        products = [lambda a=a, b=b: a @ b]
        if device.type == "cpu" and torch.backends.mkldnn.is_available():
            products.append(lambda a=a, b=b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))  # noqa: SLF001
        found[str(dtype).removeprefix("torch.")] = 2 * side**3 / min(_fastest(run, device) for run in products)
    return found


def _fastest(run: Any, device: torch.device, repeats: int = 7) -> float:
    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return min(once() for _ in range(repeats))
