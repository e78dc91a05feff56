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


def main(architecture: str, *ops: str) -> None:
    package = Path(adaptinf_kernels.__file__).parent
    found: dict[str, dict[str, Any]] = {}
    for op in sorted(ops or (path.parent.name for path in package.glob("*/triton_kernels.py"))):
        compilations = importlib.import_module(f"adaptinf_kernels.{op}.triton_kernels").compilations()
        found[op] = {
            one.name: compile_one(one, int(architecture))
            for one in compilations
            if int(architecture) in one.architectures
        }
        if len({one.name for one in compilations}) != len(compilations):
            raise ValueError(f"{op}: two compilations have one name")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
