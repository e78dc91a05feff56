"""Native attention, gates and norms under hostile numbers, in a process of their own: an error, never a crash."""

from __future__ import annotations

import re

import pytest
from adaptinf_kernels import build_info

from tests.kernels.native_hostile import outcomes_of

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)

F32 = 0x220


def view(*shape: object, strides: str = "", pointer: str = "P", dtype: int = F32, device: int = 1) -> str:
    plain = [" * ".join(["1", *map(str, shape[i + 1 :])]) for i in range(len(shape))]
    return f"({pointer}, [{', '.join(map(str, shape))}], {strides or f'[{chr(44).join(plain)}]'}, {dtype}, {device}, 0)"


def attention(back: bool = False, **changes: str) -> str:
    given = {
        "query": view(2, 4, 3, 5), "key": view(2, 2, 6, 5), "value": view(2, 2, 6, 7), "mask": "None",
        "causal": "False", "scale": "0.5", "out": view(2, 3, 4, 7), "log_sums": view(24),
        "dq": view(2, 3, 4, 5), "dk": view(2, 6, 2, 5), "dv": view(2, 6, 2, 7), "threads": "1", "level": "''",
    }  # fmt: skip
    assert changes.keys() <= given.keys()
    g = {**given, **changes}
    inputs = "({query}, {key}, {value}, {mask}, {causal}, {scale})".format(**g)
    if back:
        return f"_C.attention_backward({inputs}, {g['log_sums']}, {g['out']}, [{g['dq']}, {g['dk']}, {g['dv']}], 1)"
    return f"_C.attention({inputs}, {g['out']}, {g['log_sums']}, {g['threads']}, {g['level']})"


def swiglu(gate: str = view(3, 4), up: str = view(3, 4), out: str = view(3, 4), threads: str = "1") -> str:
    return f"_C.swiglu({gate}, {up}, {out}, {threads})"


def swiglu_backward(grad: str = view(3, 4), gate_gradient: str = view(3, 4), up_gradient: str = view(3, 4)) -> str:
    return f"_C.swiglu_backward({grad}, {view(3, 4)}, {view(3, 4)}, {gate_gradient}, {up_gradient}, 1)"


def norm(x: str = view(3, 4), weight: str = view(4), out: str = view(3, 4)) -> str:
    return f"_C.rms_norm({x}, {weight}, 1e-6, {out}, 1)"


def rotary(
    x: str = view(2, 4, 3, 6),
    cos: str = view(2, 3, 6),
    sin: str = view(2, 3, 6, strides="[0, 6, 1]"),
    out: str = view(2, 3, 4, 6),
    threads: str = "1",
) -> str:
    return f"_C.rotary({x}, {cos}, {sin}, {out}, True, {threads})"


CASES = {
    "null query": (attention(query=view(2, 4, 3, 5, pointer="0")), "query: null"),
    "query of three sizes": (attention(query=view(4, 3, 5)), "query: needs 4 sizes"),
    "negative tokens": (attention(query=view(2, 4, -3, 5)), "query: a size is negative"),
    "float64": (attention(query=view(2, 4, 3, 5, dtype=0x240)), "query: dtype"),
    "CUDA": (attention(query=view(2, 4, 3, 5, device=2)), "query: must be in the memory of the CPU"),
    "strided columns": (attention(key=view(2, 2, 6, 5, strides="[60, 30, 10, 2]")), "key: the last stride"),
    "backward rows": (attention(key=view(2, 2, 6, 5, strides="[60, 30, -5, 1]")), "key: rows overlap or run backwards"),
    "sizes overflow": (attention(key=view("2**31", "2**31", "2**20", 5, strides="[0, 0, 0, 1]")), "key overflows"),
    "strides overflow": (attention(key=view(2, 2, 6, 5, strides="[2**62, 2**62, 2**61, 1]")), "overflows"),
    "too many tokens": (attention(key=view(2, 2, "2**24 + 1", 5, strides="[0, 0, 0, 1]")), "more than 2\\^24"),
    "key of another batch": (attention(key=view(3, 2, 6, 5)), "key: its batch and width"),
    "key of another width": (attention(key=view(2, 2, 6, 4)), "key: its batch and width"),
    "value of other tokens": (attention(value=view(2, 2, 5, 7)), "value: its batch, heads and tokens"),
    "heads": (attention(key=view(2, 3, 6, 5), value=view(2, 3, 6, 7)), "multiple"),
    "no key heads": (attention(key=view(2, 0, 6, 5), value=view(2, 0, 6, 7)), "multiple"),
    "small out": (attention(out=view(2, 3, 4, 6)), "out: must be"),
    "out by heads": (attention(out=view(2, 4, 3, 7)), "out: must be"),
    "out overlaps": (attention(out=view(2, 3, 4, 7, strides="[84, 0, 7, 1]")), "out: rows overlap"),
    "small sums": (attention(log_sums=view(23)), "log_sums: must be"),
    "mask of bytes elsewhere": (attention(mask=view(2, 4, 3, 5, dtype=8)), "mask: must be"),
    "mask of floats": (attention(mask=view(2, 4, 3, 6)), "mask: dtype"),
    "no threads": (attention(threads="0"), "threads: must be at least 1"),
    "unknown instruction set": (attention(level="'sse9'"), "choose from portable"),
    "unaligned": (attention(query=view(2, 4, 3, 5, pointer="P + 2")), "aligned"),
    "end of memory": (attention(query=view(2, 4, 3, 5, pointer="2**64 - 8")), "end of memory"),
    "backward: out": (attention(back=True, out=view(2, 4, 3, 7)), "out_gradient: must be"),
    "backward: query": (attention(back=True, dq=view(2, 4, 3, 5)), "query_gradient: must be"),
    "backward: key": (attention(back=True, dk=view(2, 6, 4, 5)), "key_gradient: must be"),
    "backward: value": (attention(back=True, dv=view(2, 6, 2, 6)), "value_gradient: must be"),
    "backward: sums": (attention(back=True, log_sums=view(0)), "log_sums: must be"),
    "gate of one size": (swiglu(gate=view(4)), "gate: needs 2 sizes"),
    "up of another shape": (swiglu(up=view(3, 5)), "up: must be"),
    "small output": (swiglu(out=view(2, 4)), "out: must be"),
    "expanded output": (swiglu(out=view(3, 4, strides="[0, 1]")), "out: rows overlap"),
    "gate on CUDA": (swiglu(gate=view(3, 4, device=2)), "gate: must be in the memory of the CPU"),
    "negative threads": (swiglu(threads="-1"), "threads: must be at least 1"),
    "gradient of the gate": (swiglu_backward(gate_gradient=view(4, 3)), "gate_gradient: must be"),
    "gradient of up": (swiglu_backward(up_gradient=view(3, 3)), "up_gradient: must be"),
    "gradient of the output": (swiglu_backward(grad=view(3, 5)), "out_gradient: must be"),
    "weight": (norm(weight=view(5)), "weight: must be"),
    "weight by rows": (norm(weight=view(1, 4)), "weight: needs 1 sizes"),
    "normed": (norm(out=view(3, 5)), "out: must be"),
    "heads of three sizes": (rotary(x=view(2, 4, 6)), "x: needs 4 sizes"),
    "odd width": (rotary(x=view(2, 4, 3, 5)), "x: its width must be even"),
    "cosines of other tokens": (rotary(cos=view(2, 4, 6)), "cos: must be"),
    "cosines of another width": (rotary(cos=view(2, 3, 8)), "cos: must be"),
    "sines of another batch": (rotary(sin=view(1, 3, 6)), "sin: must be"),
    "sines on CUDA": (rotary(sin=view(2, 3, 6, device=2)), "sin: must be in the memory of the CPU"),
    "rotated by heads": (rotary(out=view(2, 4, 3, 6)), "out: must be"),
    "rotated over itself": (rotary(out=view(2, 3, 4, 6, strides="[72, 24, 0, 1]")), "out: rows overlap"),
    "rotating without threads": (rotary(threads="0"), "threads: must be at least 1"),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """Case -> the error it raised; one process runs on after each, so a corrupted heap would show in the next."""
    found = outcomes_of(call for call, _ in CASES.values())
    return {name: found[call] for name, (call, _) in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_hostile_numbers_raise(outcomes: dict[str, str], name: str) -> None:
    assert re.search(CASES[name][1], outcomes[name])
