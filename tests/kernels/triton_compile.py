"""Compiles the Triton kernels of every op for one architecture, without a GPU: `python triton_compile.py 90 [op ...]`.

Prints JSON, ``{op: {compilation: {"registers", "stack", "shared", "default"} or {"error"}}}``; bytes of stack are
spilled registers. It takes the triton that is first on the path, and must not interpret.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import adaptinf_kernels
import triton
from adaptinf_kernels._triton import Compilation
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

PACKAGE = Path(adaptinf_kernels.__file__).parent
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def compile_one(compilation: Compilation, architecture: int) -> dict[str, Any]:
    kernel = compilation.kernel
    source = ASTSource(
        fn=kernel,
        signature=dict(compilation.signature),
        constexprs=dict(compilation.constexprs),
        attrs={(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in compilation.divisible},
    )
    options = {"num_warps": compilation.num_warps, "num_stages": compilation.num_stages}
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    except Exception as error:  # noqa: BLE001  (whatever a compiler raises is the finding)
        return {"error": f"{type(error).__name__}: {error}"}
    with TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        usage = subprocess.run([CUOBJDUMP, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    used = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "registers": used["REG"],
        "stack": used["STACK"] + used["LOCAL"],
        "shared": compiled.metadata.shared,
        "default": compilation.default,
    }


def listed(op: str) -> list[Compilation]:
    """What the kernel modules of an op's folder list."""
    files = sorted(PACKAGE.glob(f"{op}/triton_*.py"))
    modules = [importlib.import_module(f"adaptinf_kernels.{op}.{file.stem}") for file in files]
    found = [one for module in modules if hasattr(module, "compilations") for one in module.compilations()]
    if len({one.name for one in found}) != len(found):
        raise ValueError(f"{op}: two compilations have one name")
    return found


def main(architecture: str, *ops: str) -> None:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for op in ops or sorted({file.parent.name for file in PACKAGE.glob("*/triton_*.py")}):
        compilations = [one for one in listed(op) if int(architecture) in one.architectures]
        found[op] = {one.name: compile_one(one, int(architecture)) for one in compilations}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
