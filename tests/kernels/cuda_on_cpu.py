"""The native module's CUDA half with kernels on the CPU (cuda_shim/module.cpp), and CPU tensors that pose as CUDA's."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pybind11
import pytest
import torch
from adaptinf_kernels import _native
from adaptinf_kernels.kmeans import native as kmeans_native
from adaptinf_kernels.kmeans import native_cuda as kmeans_cuda
from adaptinf_kernels.semdedup import native as semdedup_native
from adaptinf_kernels.semdedup import native_cuda as semdedup_cuda
from torch import Tensor

NAME = "cuda_on_cpu"
BINDINGS = ("kmeans/bind_cuda.cpp", "semdedup/bind_cuda.cpp")
KERNELS = (
    "common/device_arguments.cu",
    "kmeans/assign_cuda.cu",
    "kmeans/fit_cuda.cu",
    "kmeans/rows_cuda.cu",
    "semdedup/dedup_cuda.cu",
)


def build(repository: Path, base: Path) -> ModuleType:
    """The module, compiled once in a test session, whatever the number of its processes."""
    if platform.machine() != "x86_64" or shutil.which("g++") is None:
        pytest.skip("the shim needs g++ and x86-64")
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / NAME
    folder.mkdir(exist_ok=True)
    target = folder / f"{NAME}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _compile(repository, folder, target)
    spec = importlib.util.spec_from_file_location(NAME, target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _compile(repository: Path, folder: Path, target: Path) -> None:
    (folder / "adaptinf_build.h").write_text('#define ADAPTINF_HAS_CUDA 1\n#define ADAPTINF_CUDA_REASON ""\n')
    shim, csrc = repository / "tests" / "kernels" / "cuda_shim", repository / "csrc"
    include = [shim, csrc, folder, sysconfig.get_paths()["include"], pybind11.get_include()]
    flags = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", *(f"-I{path}" for path in include)]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    bindings = [shim / "module.cpp", *(csrc / name for name in BINDINGS)]
    objects = []
    for source in (*bindings, *(csrc / name for name in KERNELS)):
        objects.append(folder / f"{source.parent.name}_{source.stem}.o")
        level = "-O0" if source in bindings else "-O1"
        _run("g++", *flags, *warnings, level, "-x", "c++", "-c", str(source), "-o", str(objects[-1]))
    _run("g++", "-shared", *map(str, objects), "-o", str(target))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def pose(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """From here on k-means and semdedup take CPU tensors for tensors on a CUDA device, whose kernels ``module`` has."""
    posing = SimpleNamespace(
        native=lambda: module,
        view=_on_device,
        rows_contiguous=_native.rows_contiguous,
        contiguous=_native.contiguous,
        workspace=_workspace,
        stream=lambda device: 0,
        reasons_against=lambda device: [],
    )
    for native, cuda in ((kmeans_native, kmeans_cuda), (semdedup_native, semdedup_cuda)):
        monkeypatch.setattr(cuda, "_native", posing)
        monkeypatch.setattr(native, "run", cuda.run)
        monkeypatch.setattr(native, "not_supported_reasons", cuda.not_supported_reasons)


def _on_device(tensor: Tensor) -> tuple[Any, ...]:
    return (*_native.view(tensor)[:4], 2, 0)


def _workspace(size: int, device: torch.device) -> Tensor:
    """Aligned as the memory of CUDA is, and full of what no result looks like."""
    memory = torch.full((size + 256,), -1, dtype=torch.int8)
    start = -memory.data_ptr() % 256
    return memory[start : start + size]


def counted(module: ModuleType, call: Callable[[], Any]) -> tuple[int, int]:
    """How often ``call`` made the host wait for the device, and how many kernels it launched."""
    before = module.counts()
    call()
    after = module.counts()
    return after[0] - before[0], after[1] - before[1]
