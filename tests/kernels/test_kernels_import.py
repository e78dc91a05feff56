"""What importing the kernels costs, and that the reference needs neither Triton nor the native module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import adaptinf_kernels
import pytest

ROOT = Path(adaptinf_kernels.__file__).parent.parent

FORBID = """
import sys
sys.path.insert(0, {root!r})
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name in {forbidden!r} or name.partition(".")[0] in {forbidden!r}:
            raise ImportError(f"{{name}} is forbidden here")
sys.meta_path.insert(0, Forbid())
"""


def run_without(forbidden: set[str], code: str) -> str:
    program = FORBID.format(root=str(ROOT), forbidden=forbidden) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_no_torch() -> None:
    code = """
import adaptinf_kernels
sketch = adaptinf_kernels.Sketch(kind="sjlt", k=64, seed=0)
print(sketch.digest[:4], sorted({"torch", "numpy", "triton", "adaptinf"} & set(sys.modules)))
"""
    assert run_without({"torch", "numpy", "triton", "adaptinf"}, code).endswith(" []")


def test_references_run_without_triton_and_the_native_module() -> None:
    code = """
import torch
from adaptinf_kernels import *
from adaptinf_kernels import NotSupportedError, build_info
x, cu = torch.eye(8), torch.tensor([0, 3, 8])
for sketch in (Sketch("sjlt", 16), Sketch("rademacher", 16), Sketch("xorts", 16), Sketch("kron", 16, min_side=4)):
    assert torch.equal(
        grad_sketch_linear(x, x, cu, sketch, name="w").sketch,
        grad_sketch_linear(x, x, cu, sketch, name="w", impl="reference").sketch,
    )
    grad_sketch_lora(x, x, x[:2], x[:, :2], cu, sketch, names=("a", "b"), scaling=1.0)
    grad_sketch_embedding(torch.arange(8), x, cu, sketch, name="w", vocabulary=8)
    grad_sketch_bias(x, cu, sketch, name="w"), grad_sketch_norm(x, x, cu, sketch, name="w")
    project(x[None], sketch, name="w", impl="reference")
token_scores(x, x, torch.arange(8), grad=True)
kmeans(x, 2), semdedup(x, eps=0.1), signs(0, "w", 2, 2)
info = build_info()
assert not info["native"] and "forbidden here" in info["reason"], info
try:
    signs(0, "w", 2, 2, impl="native")
except NotSupportedError as error:
    print(error.reasons[0])
"""
    found = run_without({"triton", "adaptinf_kernels._C", "transformers", "peft", "datasets", "adaptinf"}, code)
    assert "does not load" in found
    assert "forbidden here" in found


def test_both_ways_give_the_same_sketch() -> None:
    code = """
import hashlib, torch
from adaptinf_kernels import Sketch, project
x = torch.arange(600.0).view(2, 20, 15)
for sketch in (Sketch("sjlt", 32), Sketch("rademacher", 32), Sketch("xorts", 32), Sketch("kron", 32, min_side=1)):
    print(hashlib.sha256(project(x, sketch, name="w").numpy().tobytes()).hexdigest())
"""
    assert run_without(set(), code) == run_without({"adaptinf_kernels._C"}, code)


def test_a_forbidden_import_is_noticed() -> None:
    with pytest.raises(AssertionError, match="colorsys is forbidden here"):
        run_without({"colorsys"}, "import colorsys")  # what coverage does not load before
