"""The CUDA kernels compile for every architecture that is built, and none keeps registers in memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ARCHITECTURES = ("80", "90a", "100")
SOURCES = (
    "kmeans/assign_cuda.cu",
    "kmeans/fit_cuda.cu",
    "kmeans/rows_cuda.cu",
    "semdedup/dedup_cuda.cu",
    "sketch/philox_fill_cuda.cu",
)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_no_kernel_spills(source: str, architecture: str, repository: Path, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on the PATH")
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    if f"sm_{architecture.rstrip('a')}" not in known:
        pytest.skip(f"this nvcc knows no sm_{architecture}")
    flags = [
        "-O3",
        "-std=c++17",
        "-Xptxas=-v",
        f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
        "-cubin",
    ]
    csrc = repository / "csrc"
    command = [nvcc, *flags, f"-I{csrc}", str(csrc / source), "-o", str(tmp_path / "kernels.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = done.stdout + done.stderr
    spills = re.findall(r"Function properties for (\S+)\s+\d+ bytes stack frame, (\d+) bytes spill stores", report)
    assert len(spills) >= 2
    assert not [kernel for kernel, stores in spills if int(stores) > 0]
