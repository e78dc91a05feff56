"""The CUDA entry of de-duplication under hostile numbers, in a process of its own: an error, with or without a GPU."""

from __future__ import annotations

import re

import pytest
from adaptinf_kernels import build_info

from tests.kernels.native_hostile import CUDA_ERRORS, F32, F64, I8, I64, outcomes_of, tensor

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)


def call(**changes: str) -> str:
    """Six places in two clusters, two thresholds; all in host memory that claims to be a GPU's."""
    arguments = {
        "x": tensor(F32, 7, 2),
        "rows": tensor(I64, 6),
        "bounds": "[0, 4, 6]",
        "keep": "'greedy'",
        "thresholds": "[0.9, 0.5]",
        "found": f"({tensor(I8, 2, 6)}, {tensor(I64, 2, 6)}, {tensor(F64, 2, 6)})",
        "workspace": tensor(I8, 1 << 16),
        "stream": "0",
    }
    assert changes.keys() <= arguments.keys()
    return f"_C.semdedup_cuda({', '.join({**arguments, **changes}.values())})"


def found(kept: str = tensor(I8, 2, 6), before: str = tensor(I64, 2, 6), similarity: str = tensor(F64, 2, 6)) -> str:
    return call(found=f"({kept}, {before}, {similarity})")


HOSTILE = {
    call(x=tensor(F32, 7, 2, device="1, 0")): "x: must be on the CUDA device|rows: must be on the CUDA device",
    call(x=tensor(I64, 7, 2)): "x: dtype",
    call(x=tensor(F32, 7, 2, pointer="0")): "x: null pointer",
    call(x=f"(P, [7, 2], [-2, 1], {F32}, 2, 0)"): "x: rows overlap or run backwards",
    call(x=f"(P, [7, 2], [4, 2], {F32}, 2, 0)"): "x: the last stride",
    call(x=f"(P, [1, 2**21], [0, 1], {F32}, 2, 0)"): "x: more than",
    call(x=tensor(F32, 0, 2)): "rows: must be rows of x",
    call(rows=tensor(I64, 5)): r"rows: must be \[6\]",
    call(rows=tensor(F64, 6)): "rows: dtype",
    call(rows=tensor(I64, 6, device="2, 1")): "rows: must be on the CUDA device of x",
    call(rows=f"(P, [6], [2], {I64}, 2, 0)"): "rows: the last stride",
    call(bounds="[]"): "bounds: must be at least one",
    call(bounds="[1, 6]"): "bounds: must run from 0",
    call(bounds="[0, 7, 6]"): "bounds: must not fall",
    call(bounds="[0, -1, 6]"): "bounds: must not fall",
    call(bounds="[0, 2**70, 6]"): "incompatible",
    call(bounds="[0, 2**31]"): "more than 2.30 rows",
    call(bounds="[0, 5]"): r"rows: must be \[5\]",
    call(keep="'best'"): "keep 'best'",
    call(thresholds="[0.9, float('nan')]"): "thresholds: must be numbers",
    call(thresholds="[0.9]"): r"kept: must be \[1, 6\]",
    found(kept=tensor(I64, 2, 6)): "kept: dtype",
    found(before=f"(P, [2, 6], [3, 1], {I64}, 2, 0)"): "before: rows overlap",
    found(before=tensor(I64, 2, 6, pointer="P + 4")): "before: pointer is not aligned",
    found(similarity=f"(P, [2, 6], [8, 1], {F64}, 2, 0)"): "similarity: must be contiguous",
    call(workspace=tensor(I8, 100)): "workspace: must be|no CUDA part",
    "_C.semdedup_cuda_workspace(-1, 2, 3, 1, 'greedy')": "negative",
    "_C.semdedup_cuda_workspace(2**31, 2, 3, 1, 'greedy')": "beyond its limit",
    "_C.semdedup_cuda_workspace(1, 2, 3, 1, 'best')": "keep 'best'",
    call(workspace=f"(P, [SIZE], [1], {I8}, 2, 0)"): "cuda|CUDA",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    size = "SIZE = _C.semdedup_cuda_workspace(6, 2, 2, 2, 'greedy') if _C.build_info()['cuda']['built'] else 1"
    return outcomes_of(HOSTILE, setup=[size], errors=CUDA_ERRORS)


@pytest.mark.parametrize("one", HOSTILE)
def test_hostile_numbers_raise(outcomes: dict[str, str], one: str) -> None:
    assert re.search(HOSTILE[one], outcomes[one])
