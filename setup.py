"""Packages and the native module; everything else is in pyproject.toml.

Environment: ``ADAPTINF_CUDA=auto|0|1`` (auto: where nvcc works; 1: fail where it does not) and
``ADAPTINF_CUDA_ARCHS``, the architectures to compile for, e.g. ``"80 90a"``.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
BINDINGS = "kernels/adaptinf_kernels/_bindings.py"
ARCHITECTURES = ("80", "90a", "100")
JOBS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CXX_FLAGS = [
    "-O3",
    "-g0",
    "-std=c++17",
    "-Wall",
    "-Wextra",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-D_GLIBCXX_ASSERTIONS",
]


class CudaUnavailableError(Exception):
    """Why the CUDA part cannot be built here."""


@dataclass
class Cuda:
    """What the CUDA part of the build gave: objects to link, or the reason for having none."""

    reason: str = ""
    architectures: list[str] = field(default_factory=list)
    toolkit: str = ""
    objects: list[str] = field(default_factory=list)
    library_dirs: list[str] = field(default_factory=list)


def run(*command: str) -> str:
    """Standard output and error together; raises CudaUnavailableError with the end of them."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CudaUnavailableError(f"{command[0]} does not start: {error}") from error
    output = done.stdout + done.stderr
    if done.returncode:
        raise CudaUnavailableError(f"{command[0]} failed: {output.strip()[-600:]}")
    return output


def compile_cuda(sources: list[Path], include: Path, build: Path) -> Cuda:
    """Compile with the nvcc of the PATH. Raises CudaUnavailableError."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise CudaUnavailableError("nvcc is not on the PATH")
    toolkit = re.search(r"release ([\d.]+)", run(nvcc, "--version"))
    # nvcc may be a wrapper script, so where its libraries are is known to nvcc alone
    libraries = re.search(r"^#\$ LIBRARIES=(.*)$", run(nvcc, "--dryrun", "x.cu"), re.MULTILINE)
    library_dirs = re.findall(r'-L([^"\s]+)', libraries[1]) if libraries else []
    chosen = os.environ.get("ADAPTINF_CUDA_ARCHS", "").replace(",", " ").split()
    if not chosen:
        known = set(re.findall(r"sm_(\w+)", run(nvcc, "--list-gpu-code")))
        chosen = [arch for arch in ARCHITECTURES if arch.rstrip("a") in known]
    if not chosen:
        raise CudaUnavailableError(f"nvcc knows none of the architectures {', '.join(ARCHITECTURES)}")
    newest = max(chosen, key=lambda arch: int(arch.rstrip("af")))
    code = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in chosen]
    code.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    flags = ["-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden", f"-I{include}", *code]

    def compile_one(source: Path) -> str:
        target = str(build / (source.stem + ".o"))
        run(nvcc, *flags, "-c", str(source), "-o", target)
        return target

    by_size = sorted(sources, key=lambda source: source.stat().st_size, reverse=True)  # the longest first
    with ThreadPoolExecutor(JOBS) as pool:
        objects = list(pool.map(compile_one, by_size))
    return Cuda("", chosen, toolkit[1] if toolkit else "unknown", objects, library_dirs)


class BuildNative(build_ext):
    """Builds ``adaptinf_kernels._C``, with its CUDA part where that was asked for or is possible."""

    def build_extension(self, ext: Extension) -> None:
        build = Path(self.build_temp)
        build.mkdir(parents=True, exist_ok=True)
        cuda = self._cuda(build)
        ext.extra_objects = cuda.objects
        ext.library_dirs = cuda.library_dirs
        ext.libraries = ["cudart_static", "dl", "rt", "pthread"] if cuda.objects else []
        header = build / "adaptinf_build.h"
        content = self._build_header(cuda)
        if not header.exists() or header.read_text() != content:
            header.write_text(content)
        ext.include_dirs.append(str(build))
        ext.depends += [str(header), *cuda.objects]
        compile_some = self.compiler.compile

        def compile_side_by_side(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(JOBS) as pool:
                return [
                    done for one in pool.map(lambda source: compile_some([source], **options), sources) for done in one
                ]

        self.compiler.compile = compile_side_by_side
        super().build_extension(ext)

    def _cuda(self, build: Path) -> Cuda:
        wanted = os.environ.get("ADAPTINF_CUDA", "auto")
        if wanted not in ("auto", "0", "1"):
            raise SystemExit(f"ADAPTINF_CUDA={wanted}: choose from auto, 0, 1")
        if wanted == "0":
            return Cuda(reason="switched off by ADAPTINF_CUDA=0")
        try:
            return compile_cuda(sorted((ROOT / "csrc").rglob("*.cu")), ROOT / "csrc", build)
        except CudaUnavailableError as error:
            if wanted == "1":
                raise SystemExit(f"ADAPTINF_CUDA=1, but {error}") from error
            self.warn(f"building without CUDA: {error}")
            return Cuda(reason=str(error))

    def _build_header(self, cuda: Cuda) -> str:
        compiler = getattr(self.compiler, "compiler_cxx", ["c++"])[0]
        version = run(compiler, "--version").splitlines()[0]
        facts = {
            "ADAPTINF_COMPILER": version,
            "ADAPTINF_BINDINGS": runpy.run_path(str(ROOT / BINDINGS))["digest"](ROOT / "csrc"),
            "ADAPTINF_CUDA_REASON": cuda.reason,
            "ADAPTINF_CUDA_ARCHITECTURES": " ".join(cuda.architectures),
            "ADAPTINF_CUDA_TOOLKIT": cuda.toolkit,
        }
        lines = [f"#define ADAPTINF_HAS_CUDA {int(bool(cuda.objects))}"]
        lines += [f"#define {name} {json.dumps(text)}" for name, text in facts.items()]
        return "\n".join(lines) + "\n"


setup(
    packages=find_packages(include=["adaptinf", "adaptinf.*"])
    + find_packages("kernels", include=["adaptinf_kernels", "adaptinf_kernels.*"]),
    package_dir={"adaptinf": "adaptinf", "adaptinf_kernels": "kernels/adaptinf_kernels"},
    ext_modules=[
        Extension(
            "adaptinf_kernels._C",
            sources=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").rglob("*.cpp"))],
            depends=[
                str(path.relative_to(ROOT))
                for path in sorted((ROOT / "csrc").rglob("*"))
                if path.suffix in (".h", ".cu", ".cuh")
            ],
            include_dirs=[str(ROOT / "csrc"), pybind11.get_include()],
            extra_compile_args=CXX_FLAGS,
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildNative},
)
