"""The native gradient sketches under hostile numbers, in a process of their own: an error, never a crash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from adaptinf_kernels import build_info

from tests.kernels.native_hostile import F32, F64, I64, outcomes_of
from tests.kernels.sanitizers import run_sanitized

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)

S, NO = "('sjlt', 4, 1, 2, 2)", "('', None, None, [0.0] * 4)"
NO_NORMS = f"(0, [0], [1], {F32}, 1, 0)"


def linear(**changes: str) -> str:
    arguments = {
        "x": f"(P, [4, 3], [3, 1], {F32}, 1, 0)",
        "grad_out": f"(P, [4, 5], [5, 1], {F32}, 1, 0)",
        "bounds": "[0, 1, 4]",
        "sketch": S,
        "key": "7",
        "state": NO,
        "z": f"(Q, [2, 4], [4, 1], {F32}, 1, 0)",
        "squared_norms": f"(Q + 1024, [2], [1], {F32}, 1, 0)",
        "threads": "1",
    }
    assert changes.keys() <= arguments.keys()
    return f"_C.grad_sketch_linear({', '.join({**arguments, **changes}.values())})"


def xorts(rows: str = "", columns: str = "", **changes: str) -> str:
    key = f"({rows or codes(1, 5)}, {columns or codes(1, 3)})"
    return linear(**{"sketch": "('xorts', 4, 1, 1, 4)", "key": key, **changes})


def codes(repetitions: int, ids: int, pointer: str = "P") -> str:
    return f"({pointer}, [{repetitions}, {ids}], [{ids}, 1], {I64}, 1, 0)"


def moment(rows: int, columns: int) -> str:
    return f"(P, [{rows}, {columns}], [{columns}, 1], {F32}, 1, 0)"


def embedding(ids: str, sketch: str = S, key: str = "7") -> str:
    return (
        f"_C.grad_sketch_embedding({ids}, {moment(2, 3)}, [0, 2], {sketch}, {key}, -1, {moment(1, 4)}, {NO_NORMS}, 1)"
    )


def lora(a: str = "", b: str = "", magnitude: str = "None") -> str:
    matrices = f"{moment(4, 3)}, {moment(4, 5)}, {a or moment(2, 3)}, {b or moment(5, 2)}"
    rest = f"0.5, {magnitude}, {NO}, {NO}, {moment(1, 4)}, {NO_NORMS}, 1"
    return f"_C.grad_sketch_lora({matrices}, [0, 4], {S}, 1, 2, {rest})"


HOSTILE = {
    linear(x=f"(0, [4, 3], [3, 1], {F32}, 1, 0)"): "x: null pointer",
    linear(x=f"(P, [4, -3], [3, 1], {F32}, 1, 0)"): "x: a size is negative",
    linear(x=f"(P, [4, 3], [3, 2], {F32}, 1, 0)"): "x: the last stride",
    linear(x=f"(P, [4, 3], [-3, 1], {F32}, 1, 0)"): "x: rows overlap or run backwards",
    linear(x=f"(P, [4, 3], [2**62, 1], {F32}, 1, 0)"): "x.*overflows",
    linear(x=f"(P + 2, [4, 3], [3, 1], {F32}, 1, 0)"): "x: pointer is not aligned",
    linear(x=f"(P, [4, 3], [3, 1], {F64}, 1, 0)"): "x: dtype",
    linear(x=f"(P, [4, 3], [3, 1], {F32}, 2, 0)"): "x: must be in the memory of the CPU",
    linear(x=f"(P, [5, 3], [3, 1], {F32}, 1, 0)"): "bounds: must run",
    linear(grad_out=f"(P, [3, 5], [5, 1], {F32}, 1, 0)"): r"grad_out: must be \[4, 5\]",
    linear(
        x=f"(0, [0, 2**31], [2**31, 1], {F32}, 1, 0)",
        grad_out=f"(0, [0, 2**33], [1, 1], {F32}, 1, 0)",
        bounds="[0, 0, 0]",
    ): "more than 2.32 rows",
    linear(
        x=f"(0, [0, 2**40], [1, 1], {F32}, 1, 0)", grad_out=f"(0, [0, 2**32], [1, 1], {F32}, 1, 0)", bounds="[0, 0, 0]"
    ): "parameter overflows",
    linear(bounds="[]"): "bounds: must run",
    linear(bounds="[0, 5, 4]"): "bounds: must not fall",
    linear(bounds="[0, -2, 4]"): "bounds: must not fall",
    linear(bounds="[1, 2, 4]"): "bounds: must run",
    linear(bounds="[0, 2**70, 4]"): "incompatible",
    linear(sketch="('kron', 4, 1, 2, 2)"): "kind 'kron'",
    linear(sketch="('sjlt', 4, 1, 2, 3)"): "do not make k",
    linear(sketch="('sjlt', 4, 0, 2, 2)"): "do not make k",
    linear(sketch="('sjlt', 4, -1, -2, 2)"): "do not make k",
    linear(sketch="('sjlt', 2**31, 1, 2**16, 2**15)"): "k must be",
    linear(sketch="('rademacher', 0, 1, 1, 0)"): "k must be",
    linear(key="-1"): "incompatible",
    linear(state="('adagrad', None, None, [0.0] * 4)"): "no form",
    linear(state="('less', None, None, [0.0] * 4)"): "moment is missing",
    linear(state=f"('diagonal', {moment(5, 3)}, {moment(5, 3)}, [0.0] * 4)"): "one too many",
    linear(state=f"('diagonal', None, {moment(3, 5)}, [0.0] * 4)"): r"second moment: must be \[5, 3\]",
    linear(state=f"('less', {moment(5, 2)}, {moment(5, 3)}, [0.0] * 4)"): r"first moment: must be \[5, 3\]",
    linear(state=f"('diagonal', None, {moment(5, 3)}, [0.0])"): "four numbers",
    linear(z=f"(Q, [3, 4], [4, 1], {F32}, 1, 0)"): "z: must be",
    linear(z=f"(Q, [2, 5], [5, 1], {F32}, 1, 0)"): "z: must be",
    linear(z=f"(Q, [2, 4], [3, 1], {F32}, 1, 0)"): "z: rows overlap",
    linear(z=f"(0, [2, 4], [4, 1], {F32}, 1, 0)"): "z: null",
    linear(squared_norms=f"(Q, [3], [1], {F32}, 1, 0)"): "squared_norms: must be",
    linear(threads="0"): "threads",
    linear(threads="10**6"): "threads",
    embedding("[0, -1]"): "ids: must be from",
    embedding("[0, 2**32]"): "ids: must be from",
    embedding("[0]"): "ids: must be as many",
    f"_C.project({moment(2, 6)}, 2, 2, {S}, 7, {moment(2, 4)}, 1)": "gradients: must be",
    f"_C.project({moment(2, 6)}, -2, -3, {S}, 7, {moment(2, 4)}, 1)": "negative",
    f"_C.grad_sketch_vector({moment(2, 5)}, {moment(2, 6)}, [0, 2], {S}, 7, {NO}, {moment(1, 4)}, {NO_NORMS}, 1)": (
        "factor: must be"
    ),
    xorts(key="7"): "codes of rows and columns",
    linear(key=f"({codes(1, 5)}, {codes(1, 3)})"): "codes of rows and columns",
    xorts(rows=codes(1, 6)): "row codes: must be as many",
    xorts(columns=codes(1, 5)): "column codes: must be as many",
    xorts(rows=codes(2, 5)): "differ in their repetitions",
    xorts(rows=codes(0, 5), columns=codes(0, 3)): "from 1 to 4 repetitions",
    xorts(rows=codes(5, 5), columns=codes(5, 3)): "from 1 to 4 repetitions",
    xorts(rows=codes(1, 5, "Q")): "row codes: a code is not in",
    xorts(columns=codes(1, 3, "0")): "column codes: null pointer",
    xorts(columns=f"(P, [1, 3], [3, 1], {F32}, 1, 0)"): "column codes: dtype",
    xorts(columns=f"(P, [1, 3], [3, 1], {I64}, 2, 0)"): "column codes: must be in the memory of the CPU",
    xorts(columns=f"(P, [3], [1], {I64}, 1, 0)"): "column codes: needs 2 sizes",
    xorts(sketch="('xorts', 6, 1, 1, 6)", z=f"(Q, [2, 6], [6, 1], {F32}, 1, 0)"): "power of two",
    xorts(state=f"('diagonal', None, {moment(5, 3)}, [0.0] * 4)"): "xorts takes none",
    embedding("[0, 7]", "('xorts', 4, 1, 1, 4)", f"({codes(1, 7)}, {codes(1, 3)})"): "an id has no code",
    lora(a=moment(2, 9)): "lora_a: must be",
    lora(b=moment(5, 3)): "lora_b: must be",
    lora(magnitude=moment(1, 4)): "magnitude: must be",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    return outcomes_of(HOSTILE, right=[linear(), xorts()])


@pytest.mark.parametrize("call", HOSTILE)
def test_hostile_numbers_raise(outcomes: dict[str, str], call: str) -> None:
    assert re.search(HOSTILE[call], outcomes[call])


@pytest.mark.slow
def test_no_sanitizer_complains(repository: Path, tmp_path: Path) -> None:
    """Every entry of the C++ part on memory of exactly the inputs' sizes, under AddressSanitizer and UBSan."""
    sources = ["common", "grad_gram", "grad_sketch", "xorts"]
    assert run_sanitized(repository, tmp_path, "native_sketch_driver.cpp", sources) >= 6 * 3 * 6 * 7 + 3 * 3 * 6
