"""The native boundary under hostile numbers, each in a process of its own: an error, never a crash."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from adaptinf_kernels import NotSupportedError, _native, build_info, signs
from adaptinf_kernels._native import native, view
from adaptinf_kernels.sketch.definition import philox_key

from tests.kernels.native_hostile import CUDA_ERRORS, outcomes_of

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)

# philox_signs(key, domain, row, column, (pointer, shape, strides, dtype, device type, device index))
HOSTILE = {
    "null pointer": ("0, 0, 0, 0, (0, [2, 2], [2, 1], 8, 1, 0)", "null pointer"),
    "negative size": ("0, 0, 0, 0, (P, [-1, 2], [2, 1], 8, 1, 0)", "negative"),
    "three sizes": ("0, 0, 0, 0, (P, [1, 2, 3], [6, 3, 1], 8, 1, 0)", "2 sizes"),
    "no sizes": ("0, 0, 0, 0, (P, [], [], 8, 1, 0)", "2 sizes"),
    "strides missing": ("0, 0, 0, 0, (P, [2, 2], [1], 8, 1, 0)", "2 sizes"),
    "size overflow": ("0, 0, 0, 0, (P, [2**31, 2**62], [2**62, 1], 8, 1, 0)", "overflows"),
    "stride overflow": ("0, 0, 0, 0, (P, [2**20, 2], [2**60, 1], 8, 1, 0)", "overflows"),
    "end of memory": ("0, 0, 0, 0, (2**64 - 9, [1, 100], [100, 1], 8, 1, 0)", "end of memory"),
    "overlapping rows": ("0, 0, 0, 0, (P, [2, 10], [9, 1], 8, 1, 0)", "overlap"),
    "backward rows": ("0, 0, 0, 0, (P, [2, 10], [-10, 1], 8, 1, 0)", "backwards"),
    "expanded rows": ("0, 0, 0, 0, (P, [5, 10], [0, 1], 8, 1, 0)", "overlap"),
    "strided columns": ("0, 0, 0, 0, (P, [2, 10], [20, 2], 8, 1, 0)", "last stride"),
    "wrong dtype": ("0, 0, 0, 0, (P, [2, 2], [2, 1], 64, 1, 0)", "dtype code 64"),
    "unknown dtype": ("0, 0, 0, 0, (P, [2, 2], [2, 1], -3, 1, 0)", "dtype code -3"),
    "unknown device": ("0, 0, 0, 0, (P, [2, 2], [2, 1], 8, 10, 0)", "device type 10"),
    "device index": ("0, 0, 0, 0, (P, [2, 2], [2, 1], 8, 1, -1)", "device index"),
    "rows out of range": ("0, 0, 2**32 - 1, 0, (P, [2, 2], [2, 1], 8, 1, 0)", "rows beyond"),
    "row out of range": ("0, 0, 2**64 - 1, 0, (P, [2, 2], [2, 1], 8, 1, 0)", "rows beyond"),
    "columns out of range": ("0, 0, 0, 2**63 - 129, (P, [2, 2], [2, 1], 8, 1, 0)", "columns beyond"),
    "column out of range": ("0, 0, 0, 2**64 - 1, (P, [2, 2], [2, 1], 8, 1, 0)", "columns beyond"),
    "unknown instruction set": ("0, 0, 0, 0, (P, [2, 2], [2, 1], 8, 1, 0), 0, 'sse9'", "choose from portable"),
    "host memory as CUDA": ("0, 0, 0, 0, (P, [2, 2], [2, 1], 8, 2, 0)", "cuda|CUDA"),
    "CUDA device that is absent": ("0, 0, 0, 0, (P, [2, 2], [2, 1], 8, 2, 77)", "cuda|CUDA"),
    "negative key": ("-1, 0, 0, 0, (P, [2, 2], [2, 1], 8, 1, 0)", "incompatible function arguments"),
    "huge key": ("2**64, 0, 0, 0, (P, [2, 2], [2, 1], 8, 1, 0)", "incompatible function arguments"),
    "domain too wide": ("0, 2**32, 0, 0, (P, [2, 2], [2, 1], 8, 1, 0)", "incompatible function arguments"),
    "size too wide": ("0, 0, 0, 0, (P, [2**63, 2], [2, 1], 8, 1, 0)", "incompatible function arguments"),
    "text as a pointer": ("0, 0, 0, 0, ('P', [2, 2], [2, 1], 8, 1, 0)", "incompatible function arguments"),
    "nothing": ("", "incompatible function arguments"),
}
WORDS = {
    "three words": ("0, 0, 0, 0, (P, [2, 3], [3, 1], 64, 1, 0)", "must be"),
    "signs' dtype": ("0, 0, 0, 0, (P, [2, 4], [4, 1], 8, 1, 0)", "dtype code 8"),
    "unaligned": ("0, 0, 0, 0, (P + 4, [2, 4], [4, 1], 64, 1, 0)", "aligned"),
    "counters out of range": ("0, 2**64 - 3, 0, 0, (P, [4, 4], [4, 1], 64, 1, 0)", "beyond"),
    "byte overflow": ("0, 0, 0, 0, (P, [2**60, 4], [4, 1], 64, 1, 0)", "overflows"),
}
CASES = [("philox_signs", name, *case) for name, case in HOSTILE.items()] + [
    ("philox_words", n, *c) for n, c in WORDS.items()
]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """Case -> the error it raised; one process runs on after each, so a corrupted heap would show in the next."""
    calls = {f"{function}: {name}": f"_C.{function}({arguments})" for function, name, arguments, _ in CASES}
    found = outcomes_of(calls.values(), errors=CUDA_ERRORS)
    return {name: found[call] for name, call in calls.items()}


@pytest.mark.parametrize(("function", "name", "message"), [(f, n, m) for f, n, _, m in CASES], ids=lambda v: v)
def test_hostile_numbers_raise(outcomes: dict[str, str], function: str, name: str, message: str) -> None:
    assert re.search(message, outcomes[f"{function}: {name}"])


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_empty_views_need_no_memory(shape: tuple[int, int]) -> None:
    native().philox_signs(0, 0, 0, 0, (0, list(shape), [1, 1], 8, 1, 0))


def test_threads_share_the_module() -> None:
    """It runs without the interpreter lock."""
    expected = signs(0, "w", 64, 20_000, impl="reference")
    outs = [torch.empty(64, 20_000, dtype=torch.int8) for _ in range(4)]
    key = philox_key(0, "w")
    threads = [threading.Thread(target=native().philox_signs, args=(key, 0, 0, 0, view(out))) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(out, expected) for out in outs)


def test_build_info_says_what_was_built() -> None:
    info = build_info()
    assert info["compiler"]
    assert info["cuda"]["built"] == (info["cuda"]["reason"] == "")
    assert info["cuda"]["built"] == bool(info["cuda"]["architectures"])
    assert info["cpu"]["used"] == info["cpu"]["levels"][-1]
    assert "portable" in info["cpu"]["levels"]


def test_a_module_of_other_sources_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Path) -> None:
    """Whatever implementation was asked for: a stale module is no reason to take another one."""
    sources = tmp_path / "csrc"
    shutil.copytree(repository / "csrc", sources)
    monkeypatch.setattr(_native, "_SOURCES", sources)
    monkeypatch.setattr(_native, "_load", _native._load.__wrapped__)  # which remembers nothing
    assert build_info()["native"]
    binding = sources / "sketch" / "bind.cpp"
    binding.write_text(binding.read_text().replace("philox_signs", "signs"))
    for impl in ("native", "auto"):
        with pytest.raises(NotSupportedError, match=r"out of date\n.*rebuild it with `pip install -e \.`"):
            signs(0, "w", 4, 4, impl=impl)
    assert not build_info()["native"]
    assert "out of date" in build_info()["reason"]
