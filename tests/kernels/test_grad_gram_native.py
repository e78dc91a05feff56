"""What only the native grad_gram promises: every instruction set, its limits, and no crash under hostile numbers."""

from __future__ import annotations

import re

import pytest
import torch
from adaptinf_kernels import NotSupportedError, build_info, grad_gram
from adaptinf_kernels.sketch import native as sketch_native

from tests.kernels.grad_gram_cases import LENGTHS, check, samples
from tests.kernels.native_hostile import outcomes_of

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=build_info()["cpu"]["levels"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sketch_native, "CPU_LEVEL", request.param)
    return request.param


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_gradients_products(lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    ours = samples(lengths, (261, 33), dtype)
    found = grad_gram(*ours, impl="native")
    check(found, ours, ours)
    assert torch.equal(found, found.T)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("widths", [(256, 513), (0, 5), (3, 0), (1, 1)], ids=str)
def test_other_samples(widths: tuple[int, int]) -> None:
    """Widths of no, one and several stretches that are summed in registers."""
    ours = samples((3, 0, 170), widths, torch.float32)
    others = samples((65, 1, 0, 64), widths, torch.float32, seed=1)
    check(grad_gram(*ours, other=others, impl="native"), ours, others)
    check(grad_gram(*others, other=ours, impl="native"), others, ours)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_entry_depends_on_its_two_samples_alone(dtype: torch.dtype) -> None:
    """Wherever pieces of samples and register tiles fall."""
    lengths = (63, 200, 1, 130, *[1, 2, 31, 32, 33] * 3)
    x, g, cu = samples(lengths, (300, 33), dtype)
    x *= 2.0 ** torch.randint(-6, 6, (len(x), 1), generator=torch.Generator().manual_seed(1))
    whole = grad_gram(x, g, cu, impl="native")
    assert torch.equal(whole, whole.T)
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 5, len(lengths)):
        order = torch.randperm(len(lengths), generator=generator)[:count].tolist()
        tokens = torch.cat([torch.arange(cu[one], cu[one + 1]) for one in order])
        bounds = torch.tensor([0, *(lengths[one] for one in order)]).cumsum(0)
        part = x[tokens], g[tokens], bounds
        assert torch.equal(grad_gram(*part, impl="native"), whole[order][:, order])
        assert torch.equal(grad_gram(*part, other=(x, g, cu), impl="native"), whole[order])
        assert torch.equal(grad_gram(x, g, cu, other=part, impl="native"), whole[:, order])


def test_whole_numbers_are_exact(level: str) -> None:
    """Sums below 2^24 need no rounding: nothing is left out or counted twice."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([0, 40, 0, 97, 1, 129])
    x, g = (torch.randint(-2, 3, (267, width), generator=generator).float() for width in (30, 20))
    gradients = [(b.T @ a).flatten() for a, b in zip(x.split(lengths.tolist()), g.split(lengths.tolist()), strict=True)]
    expected = torch.stack([torch.stack([a @ b for b in gradients]) for a in gradients])
    cu = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    assert expected.abs().max() < 2**24
    assert torch.equal(grad_gram(x, g, cu, impl="native"), expected), level


def test_what_it_does_not_take() -> None:
    ours = samples((2, 3), (4, 6), torch.float64)
    with pytest.raises(NotSupportedError, match=r"not torch\.float64"):
        grad_gram(*ours, impl="native")


F32, F64 = 0x220, 0x240


def call(x: str = "", grad_out: str = "", bounds: str = "[0, 1, 4]", **changes: str) -> str:
    rows = f"({x or matrix(4, 3)}, {grad_out or matrix(4, 5)}, {bounds})"
    arguments = {"rows": rows, "columns": "None", "out": matrix(2, 2, "Q"), "threads": "1", "level": "''"}
    assert changes.keys() <= arguments.keys()
    return f"_C.grad_gram({', '.join({**arguments, **changes}.values())})"


def matrix(rows: int, columns: int, pointer: str = "P") -> str:
    return f"({pointer}, [{rows}, {columns}], [{columns}, 1], {F32}, 1, 0)"


HOSTILE = {
    call(x=matrix(4, 3, "0")): "x: null pointer",
    call(x=f"(P, [4, -3], [3, 1], {F32}, 1, 0)"): "x: a size is negative",
    call(x=f"(P, [4, 3], [3, 2], {F32}, 1, 0)"): "x: the last stride",
    call(x=f"(P, [4, 3], [-3, 1], {F32}, 1, 0)"): "x: rows overlap or run backwards",
    call(x=f"(P, [4, 3], [2**62, 1], {F32}, 1, 0)"): "x.*overflows",
    call(x=f"(P, [4, 3], [3, 1], {F64}, 1, 0)"): "x: dtype",
    call(x=f"(P, [4, 3], [3, 1], {F32}, 2, 0)"): "x: must be in the memory of the CPU",
    call(x=f"(P, [12], [1], {F32}, 1, 0)"): "x: needs 2 sizes",
    call(grad_out=matrix(3, 5)): r"grad_out: must be \[4, 5\]",
    call(x=matrix(2**40, 0), grad_out=matrix(2**40, 0), bounds="[0, 1, 2**40]"): "more than 2.31 tokens",
    call(x=matrix(0, 2**40), grad_out=matrix(0, 1), bounds="[0, 0, 0]"): "samples overflows",
    call(bounds="[]"): "bounds: must run",
    call(bounds="[0, 5, 4]"): "bounds: must not fall",
    call(bounds="[0, -2, 4]"): "bounds: must not fall",
    call(bounds="[0, 1, 5]"): "bounds: must run",
    call(columns=f"({matrix(4, 2)}, {matrix(4, 5)}, [0, 4])"): "other x: must be",
    call(columns=f"({matrix(4, 3)}, {matrix(4, 6)}, [0, 4])"): "other grad_out: must be",
    call(columns=f"({matrix(4, 3)}, {matrix(4, 5)}, [0, 3])"): "bounds: must run",
    call(columns=f"({matrix(4, 3)}, {matrix(4, 5)}, [0, 4])"): "out: must be",
    call(out=matrix(3, 2, "Q")): "out: must be",
    call(out=f"(Q, [2, 2], [1, 1], {F32}, 1, 0)"): "out: rows overlap",
    call(out=f"(Q, [2, 2], [2, 1], {F64}, 1, 0)"): "out: dtype",
    call(out=f"(Q, [2, 2], [2, 1], {F32}, 2, 0)"): "out: must be in the memory of the CPU",
    call(threads="0"): "threads",
    call(threads="10**6"): "threads",
    call(level="'sse9'"): "choose from portable",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """Call -> the error it raised, all in one process."""
    return outcomes_of(HOSTILE, right=[call(), "assert written[0] == 0"])


@pytest.mark.parametrize("one", HOSTILE)
def test_hostile_numbers_raise(outcomes: dict[str, str], one: str) -> None:
    assert re.search(HOSTILE[one], outcomes[one])
