"""What only the native token scores promise: the same bits however the work is cut, every instruction set, no crash."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from adaptinf_kernels import build_info
from adaptinf_kernels._native import native, view
from adaptinf_kernels.token_scores.api import TokenScores, token_scores
from torch import Tensor

from tests.kernels.native_hostile import outcomes_of
from tests.kernels.test_token_scores import EPS32, assert_close, problem

if not build_info()["native"]:
    pytest.skip(build_info()["reason"], allow_module_level=True)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def scores_of(hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None = None) -> TokenScores:
    return token_scores(hidden, weight, labels, bias=bias, grad=True, impl="native")


def at_level(hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, level: str) -> TokenScores:
    out = [torch.full((len(hidden),), torch.nan) for _ in range(4)]
    grad = torch.full(hidden.shape, torch.nan)
    inputs = [None if x is None else view(x) for x in (hidden, weight, bias)]
    native().token_scores(*inputs, view(labels), [view(x) for x in out], view(grad), 1, level)
    return TokenScores(*out, grad)


def assert_same_bits(found: TokenScores, expected: TokenScores) -> None:
    for name, value, other in zip(expected._fields, found, expected, strict=True):
        assert torch.equal(value.view(torch.int32), other.view(torch.int32)), name


def rows(scores: TokenScores, index: Tensor) -> TokenScores:
    return TokenScores(*(value[index] for value in scores))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head", [True, False])
def test_bits_depend_on_the_token_alone(dtype: torch.dtype, head: bool, set_threads: Callable[[int], None]) -> None:
    """Neither on its place in the batch, nor the size of that, nor threads, nor where the batch begins in memory."""
    hidden, weight, bias, labels = problem(300, 310, 2100 if head else 310, dtype)
    parts = (weight, bias) if head else (None, None)
    labels = labels.clamp_max(309)
    whole = scores_of(hidden, parts[0], labels, parts[1])
    for threads in (2, 3):
        set_threads(threads)
        assert_same_bits(scores_of(hidden, parts[0], labels, parts[1]), whole)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    for index in (order, order[:1], order[3:36], torch.tensor([299]), torch.arange(257)):
        assert_same_bits(scores_of(hidden[index], parts[0], labels[index], parts[1]), rows(whole, index))
    shifted = torch.empty(300 * 311 + 1, dtype=dtype)[1:].view(300, 311)[:, :310]
    assert_same_bits(scores_of(shifted.copy_(hidden), parts[0], labels, parts[1]), whole)


def test_a_neighbour_that_overflows_changes_no_bits() -> None:
    hidden, weight, bias, labels = problem(40, 20, 4000)
    whole, others = scores_of(hidden, weight, labels, bias), torch.arange(40) != 7
    for value in (torch.nan, torch.inf, 1e38):
        hidden[7] = value
        assert_same_bits(rows(scores_of(hidden, weight, labels, bias), others), rows(whole, others))


@pytest.mark.parametrize("level", build_info()["cpu"]["levels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_instruction_set(level: str, dtype: torch.dtype) -> None:
    hidden, weight, bias, labels = problem(70, 300, 2500, dtype)
    weight *= 0.3
    assert_close(at_level(hidden, weight, labels, bias, level), (hidden, weight, bias, labels))
    logits, labels = problem(70, 501, 501, dtype)[::3]
    assert_close(at_level(logits, None, labels, None, level), (logits, None, None, labels))


def test_every_half_is_widened_exactly() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        logits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).view(256, 256)
        labels = torch.arange(256)
        for narrow, wide in zip(scores_of(logits, None, labels), scores_of(logits.float(), None, labels), strict=True):
            torch.testing.assert_close(narrow, wide, rtol=0, atol=0, equal_nan=True)


def test_probabilities_are_within_rounding() -> None:
    """p of a logit far below keeps its relative accuracy, down to the smallest normal numbers."""
    below = -torch.linspace(0, 87, 40_001)
    logits = torch.stack([torch.zeros_like(below), below], 1)
    found = scores_of(logits, None, torch.zeros(len(below), dtype=torch.int64))
    p = logits.double().softmax(1)[:, 1]
    for value, power in ((found.grad_hidden[:, 1], 1), (found.grad_hidden[:, 0].neg(), 1), (found.el2n_sq, 2)):
        truth = p**power * power
        error = (value.double() - truth).abs() / truth
        assert error[truth > torch.finfo(torch.float32).tiny].max() < 4 * EPS32
    nll = torch.log1p(below.double().exp())
    assert ((found.nll.double() - nll).abs() / nll).max() < 4 * EPS32


def test_infinite_logits() -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor(
        [[1.0, -inf, -inf], [-inf, 0.0, 0.0], [-inf] * 3, [inf, 0.0, 0.0], [0.0, inf, 0.0], [0, nan, 1]]
    )
    found = scores_of(logits, None, torch.zeros(6, dtype=torch.int64))
    expected = token_scores(logits, None, torch.zeros(6, dtype=torch.int64), grad=True, impl="reference")
    for name, value, truth in zip(found._fields, found, expected, strict=True):
        torch.testing.assert_close(value, truth, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}")


def test_masked_panels() -> None:
    """Whole panels and chunks without a finite logit, before and after those that have some."""
    hidden, weight, bias, labels = problem(20, 12, 4000)
    bias[:1500], bias[2000:] = -torch.inf, -torch.inf
    assert_close(scores_of(hidden, weight, labels, bias), (hidden, weight, bias, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_offsets_over_two_billion(dtype: torch.dtype) -> None:
    hidden, weight, _, labels = problem(2, 40, 70, dtype)
    apart = torch.empty(2**31 + 64, dtype=dtype).as_strided((2, 40), (2**31, 1)).copy_(hidden)
    assert_same_bits(scores_of(apart, weight, labels), scores_of(hidden, weight, labels))


def test_expanded_rows() -> None:
    hidden, weight, bias, labels = problem(1, 30, 100)
    many = scores_of(hidden.expand(5, 30), weight, labels.expand(5), bias)
    assert_same_bits(many, rows(scores_of(hidden, weight, labels, bias), torch.zeros(5, dtype=torch.int64)))
    one_bias = torch.ones(1).expand(100)
    assert_same_bits(scores_of(hidden, weight, labels, one_bias), scores_of(hidden, weight, labels, torch.ones(100)))


def test_no_width() -> None:
    found = scores_of(torch.empty(3, 0), torch.empty(4, 0), torch.tensor([0, 1, -100]), torch.zeros(4))
    torch.testing.assert_close(found.nll, torch.tensor([4.0, 4.0, 1.0]).log())
    assert found.grad_hidden.shape == (3, 0)


def test_memory_is_that_of_some_tiles() -> None:
    """A head whose logits would take 1 GB: the process grows by less than a tenth of that."""
    code = """
import re, torch
from pathlib import Path
from adaptinf_kernels import token_scores
def peak():  # KiB; unlike getrusage's, of this program alone
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
hidden, weight = torch.randn(1024, 8), torch.randn(262_144, 8)
labels = torch.zeros(1024, dtype=torch.int64)
token_scores(hidden[:1], weight[:300], labels[:1], grad=True, impl="native")
before = peak()
token_scores(hidden, weight, labels, grad=True, impl="native")
print(peak() - before)
"""
    kernels = str(Path(native().__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {kernels!r})\n{code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 100_000


def test_no_recompilation_with_the_batch() -> None:
    hidden, weight, bias, labels = problem(64, 16, 300)
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(scores_of, fullgraph=True, dynamic=True, backend=counter)
    for tokens in (64, 17, 40):
        parts = hidden[:tokens].clone(), weight, labels[:tokens].clone(), bias
        assert_same_bits(compiled(*parts), scores_of(*parts))
    assert counter.frame_count == 1


# token_scores(hidden, weight, bias, labels, (nll, entropy, el2n_sq, margin), grad, threads, cpu_level)
H, W, B = "(P, [2, 3], [3, 1], 0x220, 1, 0)", "(P, [4, 3], [3, 1], 0x220, 1, 0)", "(P, [4], [1], 0x220, 1, 0)"
Y, S = "(P, [2], [1], 64, 1, 0)", "([(P, [2], [1], 0x220, 1, 0)] * 4)"
HOSTILE = {
    "labels beyond": (f"{H}, {W}, {B}, (Q, [2], [1], 64, 1, 0), {S}, {H}, 1", "beyond the vocabulary"),
    "labels too few": (f"{H}, {W}, {B}, (P, [1], [1], 64, 1, 0), {S}, {H}, 1", "labels"),
    "labels strided": (f"{H}, {W}, {B}, (P, [2], [2], 64, 1, 0), {S}, {H}, 1", "last stride"),
    "labels of 32 bits": (f"{H}, {W}, {B}, (P, [2], [1], 32, 1, 0), {S}, {H}, 1", "dtype"),
    "labels nowhere": (f"{H}, {W}, {B}, (0, [2], [1], 64, 1, 0), {S}, {H}, 1", "null pointer"),
    "hidden of float64": (f"(P, [2, 3], [3, 1], 0x240, 1, 0), {W}, {B}, {Y}, {S}, {H}, 1", "dtype"),
    "hidden of one dimension": (f"(P, [6], [1], 0x220, 1, 0), {W}, {B}, {Y}, {S}, {H}, 1", "2 sizes"),
    "hidden on a GPU": (f"(P, [2, 3], [3, 1], 0x220, 2, 0), {W}, {B}, {Y}, {S}, {H}, 1", "CPU"),
    "hidden with negative rows": (f"(P, [-2, 3], [3, 1], 0x220, 1, 0), {W}, {B}, {Y}, {S}, {H}, 1", "negative"),
    "weight of another width": (f"{H}, (P, [4, 2], [2, 1], 0x220, 1, 0), {B}, {Y}, {S}, {H}, 1", "weight"),
    "weight overflowing": (f"{H}, (P, [2**62, 3], [2**61, 1], 0x220, 1, 0), None, {Y}, {S}, {H}, 1", "overflows"),
    "weight backwards": (f"{H}, (P, [4, 3], [-3, 1], 0x220, 1, 0), {B}, {Y}, {S}, {H}, 1", "backwards"),
    "no vocabulary": (f"{H}, (P, [0, 3], [3, 1], 0x220, 1, 0), None, {Y}, {S}, {H}, 1", "empty"),
    "no logits": (f"(P, [2, 0], [0, 1], 0x220, 1, 0), None, None, {Y}, {S}, None, 1", "empty"),
    "bias too short": (f"{H}, {W}, (P, [3], [1], 0x220, 1, 0), {Y}, {S}, {H}, 1", "bias"),
    "bias without weight": (f"{H}, None, (P, [3], [1], 0x220, 1, 0), {Y}, {S}, {H}, 1", "bias"),
    "three outputs": (f"{H}, {W}, {B}, {Y}, {S}[:3], {H}, 1", "incompatible function arguments"),
    "outputs too short": (f"{H}, {W}, {B}, {Y}, [(P, [1], [1], 0x220, 1, 0)] * 4, {H}, 1", "nll"),
    "outputs of integers": (f"{H}, {W}, {B}, {Y}, [(P, [2], [1], 32, 1, 0)] * 4, {H}, 1", "dtype"),
    "grad overlapping": (f"{H}, {W}, {B}, {Y}, {S}, (P, [2, 3], [0, 1], 0x220, 1, 0), 1", "overlap"),
    "grad too narrow": (f"{H}, {W}, {B}, {Y}, {S}, (P, [2, 2], [2, 1], 0x220, 1, 0), 1", "grad"),
    "grad unaligned": (f"{H}, {W}, {B}, {Y}, {S}, (P + 2, [2, 3], [3, 1], 0x220, 1, 0), 1", "aligned"),
    "no threads": (f"{H}, {W}, {B}, {Y}, {S}, {H}, 0", "threads"),
    "negative threads": (f"{H}, {W}, {B}, {Y}, {S}, {H}, -5", "threads"),
    "unknown instruction set": (f"{H}, {W}, {B}, {Y}, {S}, {H}, 1, 'sse9'", "choose from"),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """Case -> the error it raised; one process goes through all, so a corrupted heap would show in the next."""
    calls = {name: f"_C.token_scores({arguments})" for name, (arguments, _) in HOSTILE.items()}
    setup = ["large = (ctypes.c_int64 * 2)(0, 4)", "Q = ctypes.addressof(large)"]
    found = outcomes_of(calls.values(), setup=setup)
    return {name: found[call] for name, call in calls.items()}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_numbers_raise(outcomes: dict[str, str], name: str) -> None:
    assert re.search(HOSTILE[name][1], outcomes[name])
