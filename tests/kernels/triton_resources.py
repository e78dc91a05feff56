"""What the Triton kernels take of a GPU, as their compilers say; no GPU is needed.

``python -m tests.kernels.triton_resources [op ...]`` compiles them and rewrites ``triton_resources.json`` in the folder
of each op, which `test_triton_compile.py` compares.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "kernels" / "adaptinf_kernels"
VERSIONS = ("3.6.0", "3.7.1")
ARCHITECTURES = (80, 90, 100)
SHARED_LIMIT = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}  # bytes a block may have


def triton_path(version: str) -> list[Path] | None:
    """What puts Triton of that version first on the path; None where it is not installed."""
    if importlib.metadata.version("triton") == version:
        return []
    beside = Path(sys.prefix) / f"triton-{version}"
    return [beside] if beside.is_dir() else None


def compile_all(version: str, architecture: int, ops: tuple[str, ...] = ()) -> dict[str, dict[str, dict[str, Any]]]:
    """What `triton_compile.py` prints."""
    places = triton_path(version)
    if places is None:
        raise FileNotFoundError(f"there is no Triton {version}; .ci/environment installs it")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_DISABLE_LINE_INFO"] = "1"  # compiles faster, and to the same registers
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [*places, REPOSITORY / "kernels"]))
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("triton_compile.py"), str(architecture), *ops],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"Triton {version}, sm_{architecture}: {done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def label(version: str, architecture: int) -> str:
    """How the rows of one compiler and architecture end."""
    return f", Triton {version}, sm_{architecture}"


def row(found: dict[str, Any]) -> dict[str, int]:
    """What the table holds of one compilation."""
    return {part: found[part] for part in ("registers", "stack", "shared")}


def read(op: str) -> dict[str, dict[str, int]]:
    """The table of an op; empty where there is none."""
    table = PACKAGE / op / "triton_resources.json"
    return json.loads(table.read_text()) if table.exists() else {}


def write(*ops: str) -> None:
    """Compile, two processes at a time, and rewrite the tables."""
    tables: dict[str, dict[str, dict[str, int]]] = {}
    pairs = list(product(VERSIONS, ARCHITECTURES))
    with ThreadPoolExecutor(2) as pool:
        for (version, architecture), found in zip(
            pairs, pool.map(lambda pair: compile_all(*pair, ops), pairs), strict=True
        ):
            for op, compilations in found.items():
                for name, one in compilations.items():
                    if "error" in one:
                        raise RuntimeError(f"{op}: {name}{label(version, architecture)}: {one['error']}")
                    tables.setdefault(op, {})[name + label(version, architecture)] = row(one)
    for op, table in tables.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table))
        (PACKAGE / op / "triton_resources.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    write(*sys.argv[1:])
