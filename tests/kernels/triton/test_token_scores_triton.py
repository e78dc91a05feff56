"""Token scores by Triton's interpreter, against the oracle of test_token_scores.py."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels.token_scores import triton, triton_kernels
from adaptinf_kernels.token_scores.api import TokenScores, token_scores
from torch import Tensor

from tests.kernels.test_token_scores import assert_close, problem


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slabs and blocks of tokens, that the interpreter is done with in time."""
    monkeypatch.setattr(triton_kernels, "SLAB", 256)
    monkeypatch.setattr(triton, "_TOKENS", 150)


def scores_of(hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None = None) -> TokenScores:
    return token_scores(hidden, weight, labels, bias=bias, grad=True, impl="triton")


def assert_same_bits(found: TokenScores, expected: TokenScores, rows: slice = slice(None)) -> None:
    for name, value, other in zip(expected._fields, found, expected, strict=True):
        assert (value.view(torch.int32) != other[rows].view(torch.int32)).sum() == 0, name


SHAPES = [(63, 20, 1000), (9, 5, 1), (1, 1, 2), (200, 7, 33), (17, 70, 600)]


@pytest.mark.parametrize(
    ("dtype", "tokens", "width", "vocabulary"),
    [
        *((torch.float32, *shape) for shape in SHAPES),
        *((torch.float16, *shape) for shape in SHAPES[:2]),
        *((torch.bfloat16, *shape) for shape in SHAPES[:2]),
    ],
)
def test_equals_autograd(dtype: torch.dtype, tokens: int, width: int, vocabulary: int) -> None:
    hidden, weight, bias, labels = problem(tokens, width, vocabulary, dtype)
    parts = hidden, weight, bias if vocabulary > 100 else None, labels
    assert_close(scores_of(hidden, weight, labels, parts[2]), parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_without_a_head(dtype: torch.dtype) -> None:
    logits, labels = problem(50, 600, 600, dtype)[::3]
    assert_close(scores_of(logits, None, labels), (logits, None, None, labels))


def test_bits_do_not_depend_on_how_many_tokens_there_are() -> None:
    """Here only for first tokens: the interpreter's products are a library's, whose bits depend on a row's place."""
    hidden, weight, bias, labels = problem(200, 70, 600)
    whole = scores_of(hidden, weight, labels, bias)
    for tokens in (1, 140, 170):
        first = slice(tokens)
        assert_same_bits(scores_of(hidden[first], weight, labels[first], bias), whole, first)


def test_without_the_gradient() -> None:
    hidden, weight, bias, labels = problem(20, 16, 600)
    found = token_scores(hidden, weight, labels, bias=bias, impl="triton")
    assert found.grad_hidden is None
    whole = scores_of(hidden, weight, labels, bias)
    assert_same_bits(found._replace(grad_hidden=whole.grad_hidden), whole)


def test_layouts() -> None:
    hidden, weight, bias, labels = problem(20, 16, 300)
    expected = scores_of(hidden, weight, labels, bias)
    apart = torch.empty(20 * (1 << 23)).as_strided((20, 16), (1 << 23, 1)).copy_(hidden)
    assert_same_bits(scores_of(apart, weight, labels, bias), expected)
    permuted = hidden.T.contiguous().T, weight.T.contiguous().T, labels.repeat_interleave(3)[::3], bias.expand(2, -1)[1]
    assert_same_bits(scores_of(*permuted), expected)
    narrow = torch.empty(20, 40)[:, 3:19].copy_(hidden)
    assert_same_bits(scores_of(narrow, weight, labels, bias), expected)


def test_infinite_and_missing_logits() -> None:
    inf, nan = torch.inf, torch.nan
    rows = [[1, -inf, -inf], [-inf, 0, 0], [-inf, -inf, -inf], [inf, 0, 0], [0, inf, 0], [0, nan, 1]]
    logits, labels = torch.tensor(rows), torch.zeros(6, dtype=torch.int64)
    expected = token_scores(logits, None, labels, grad=True, impl="reference")
    for value, truth in zip(scores_of(logits, None, labels), expected, strict=True):
        torch.testing.assert_close(value, truth, equal_nan=True)
    hidden, weight, bias, labels = problem(20, 12, 1000)
    bias[:300], bias[600:] = -inf, -inf
    assert_close(scores_of(hidden, weight, labels, bias), (hidden, weight, bias, labels))
    hidden[3] = nan
    found = scores_of(hidden, weight, labels.clamp_min(0), bias)
    for value in found:
        assert value.isnan().reshape(20, -1).any(1).tolist() == [token == 3 for token in range(20)]


def test_sure_predictions() -> None:
    for scale in (1e4, 1e30):
        logits = torch.tensor([[1.0, -1.0, 0.5]]) * scale
        right, wrong = (scores_of(logits, None, torch.tensor([label])) for label in (0, 1))
        assert (right.nll, right.el2n_sq, right.entropy) == (0, 0, 0)
        assert wrong.el2n_sq[0] == 2
        assert torch.equal(wrong.grad_hidden, torch.tensor([[1.0, -1.0, 0.0]]))


def test_no_tokens() -> None:
    found = scores_of(torch.zeros(0, 4), torch.zeros(7, 4), torch.zeros(0, dtype=torch.int64))
    assert [list(value.shape) for value in found] == [[0]] * 4 + [[0, 4]]


def test_heads_of_another_dtype_are_refused() -> None:
    hidden, weight, _, labels = problem(3, 4, 5)
    with pytest.raises(RuntimeError, match="multiplies equal dtypes"):
        scores_of(hidden, weight.bfloat16(), labels)
