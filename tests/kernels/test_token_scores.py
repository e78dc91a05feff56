"""Token scores against float64 autograd and the definitions spelled out."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from adaptinf_kernels import TokenScores
from adaptinf_kernels.token_scores import ops, reference
from adaptinf_kernels.token_scores.api import token_scores as any_token_scores
from torch import Tensor

EPS32 = torch.finfo(torch.float32).eps


@pytest.fixture(params=["reference", "native"])
def token_scores(request: pytest.FixtureRequest) -> Any:
    """The function, by one of the implementations of the CPU."""
    reasons = ops.OP.not_supported_reasons(request.param, torch.ones(1, 1), None, torch.zeros(1), None, False)
    if reasons:
        pytest.skip("; ".join(reasons))
    return functools.partial(any_token_scores, impl=request.param)


def problem(
    tokens: int, width: int, vocabulary: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens + width + vocabulary)
    hidden = torch.randn(tokens, width, generator=generator).to(dtype)
    weight = torch.randn(vocabulary, width, generator=generator).to(dtype)
    bias = torch.randn(vocabulary, generator=generator).to(dtype)
    labels = torch.randint(vocabulary, (tokens,), generator=generator)
    labels[1::5] = -100
    return hidden, weight, bias, labels


def oracle(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None, labels: Tensor, dtype: torch.dtype
) -> TokenScores:
    """By the definitions, holding all logits, with autograd, in ``dtype``.

    In float32, a head of low precision is multiplied with p rounded to it, as flash attention does.
    """
    narrow = hidden.dtype if dtype == torch.float32 and weight is not None and hidden.itemsize == 2 else None
    hidden = hidden.detach().to(dtype).requires_grad_()
    logits = hidden if weight is None else hidden @ weight.to(dtype).T
    logits = logits if bias is None else logits + bias.to(dtype)
    counted = labels != -100
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=-100)
    (grad,) = torch.autograd.grad(nll.sum(), hidden)
    p = logits.softmax(1).detach()
    onehot = torch.nn.functional.one_hot(labels.clamp_min(0), logits.shape[1])
    if narrow:
        others = p.masked_fill(onehot.bool(), 0)
        product = (others * 2**15).to(narrow).float() @ weight.float() / 2**15  # float16 has no small numbers
        grad = (product - others.sum(1, keepdim=True) * weight[labels.clamp_min(0)].float()) * counted[:, None]
    rival = logits.detach().masked_fill(onehot.bool(), float("-inf")).max(1).values
    margin = logits.detach().gather(1, labels.clamp_min(0)[:, None])[:, 0] - rival
    return TokenScores(
        nll.detach(),
        torch.special.entr(p).sum(1),
        (onehot - p).square().sum(1) * counted,
        margin.where(counted, 0),
        grad,
    )


def assert_close(found: TokenScores, parts: tuple[Any, ...]) -> None:
    """At most twice the error of an independent float32 pass, plus rounding."""
    exact, rough = oracle(*parts, torch.float64), oracle(*parts, torch.float32)
    for name, value, truth, peer in zip(exact._fields, found, exact, rough, strict=True):
        assert value is not None and truth is not None and peer is not None
        assert value.dtype == torch.float32
        assert value.shape == truth.shape
        finite = truth.isfinite()
        assert torch.equal(value[~finite].double(), truth[~finite]), name
        error = (value.double() - truth)[finite].abs()
        bound = (
            2 * (peer.double() - truth)[finite].abs().max() + 4 * EPS32 * truth[finite].abs().max()
            if finite.any()
            else 0
        )
        assert (error <= bound).all(), name


@pytest.mark.parametrize(
    ("tokens", "width", "vocabulary"),
    [(1, 1, 2), (63, 20, 1000), (500, 7, 33), (17, 64, 5003), (33, 700, 900), (9, 5, 1)],
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_autograd(token_scores: Any, tokens: int, width: int, vocabulary: int, with_bias: bool) -> None:
    hidden, weight, bias, labels = problem(tokens, width, vocabulary)
    parts = (hidden, weight, bias if with_bias else None, labels)
    assert_close(token_scores(hidden, weight, labels, bias=parts[2], grad=True), parts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes(token_scores: Any, dtype: torch.dtype) -> None:
    hidden, weight, bias, labels = problem(40, 30, 700, dtype)
    assert_close(token_scores(hidden, weight, labels, bias=bias, grad=True), (hidden, weight, bias, labels))


def test_float64_is_computed_in_float64() -> None:
    hidden, weight, bias, labels = problem(40, 30, 700, torch.float64)
    found = any_token_scores(hidden * 30, weight, labels, bias=bias, grad=True)
    for value, truth in zip(found, oracle(hidden * 30, weight, bias, labels, torch.float64), strict=True):
        torch.testing.assert_close(value, truth.float(), rtol=EPS32, atol=1e-12)


def test_logits_without_a_head(token_scores: Any) -> None:
    logits, _, _, labels = problem(50, 300, 300)
    before = logits.clone()
    assert_close(token_scores(logits, None, labels, grad=True), (logits, None, None, labels))
    assert torch.equal(logits, before)


def test_ignored_tokens_have_entropy_alone(token_scores: Any) -> None:
    hidden, weight, _, labels = problem(20, 8, 50)
    found = token_scores(hidden, weight, labels, grad=True)
    ignored = labels == -100
    assert ignored.any()
    for value in (found.nll, found.el2n_sq, found.margin, found.grad_hidden):
        assert not value[ignored].any()
    assert (found.entropy > 0).all()
    everything = token_scores(hidden, weight, torch.full_like(labels, -100))
    torch.testing.assert_close(everything.entropy, found.entropy)
    assert everything.grad_hidden is None


def test_bounded_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, labels = problem(33, 24, 501, torch.bfloat16)
    whole = any_token_scores(hidden, weight, labels, bias=bias, grad=True, impl="reference")
    monkeypatch.setattr(reference, "_LOGITS_BYTES", 5 * 501 * 4)
    assert len(reference._tiles(weight, torch.float32)) > 4
    for value, expected in zip(
        any_token_scores(hidden, weight, labels, bias=bias, grad=True, impl="reference"), whole, strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    held, logits = [], reference._logits
    monkeypatch.setattr(reference, "_logits", lambda *parts: held.append(logits(*parts)) or held[-1])
    scores = any_token_scores(
        torch.zeros(700, 1), torch.zeros(65_536, 1), torch.zeros(700, dtype=torch.int64), impl="reference"
    )
    torch.testing.assert_close(scores.nll, torch.full((700,), 65_536.0).log())
    assert sum(len(block) for block in held) == 700
    assert max(block.nbytes for block in held) <= reference._LOGITS_BYTES


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_sure_predictions(token_scores: Any, scale: float) -> None:
    """Softmax saturates: no NaN, and an EL2N of a right answer is exactly 0."""
    logits = torch.tensor([[1.0, -1.0, 0.5]]) * scale
    right, wrong = (token_scores(logits, None, torch.tensor([label]), grad=True) for label in (0, 1))
    assert (right.nll, right.el2n_sq, right.entropy) == (0, 0, 0)
    assert wrong.nll[0] == pytest.approx(2 * scale)
    assert wrong.el2n_sq[0] == 2
    assert wrong.margin[0] == pytest.approx(-2 * scale)
    assert torch.equal(wrong.grad_hidden, torch.tensor([[1.0, -1.0, 0.0]]))


def test_a_masked_logit(token_scores: Any) -> None:
    logits = torch.tensor([[0.0, float("-inf"), 0.0]])
    found = token_scores(logits, None, torch.tensor([0]), grad=True)
    torch.testing.assert_close(found.entropy, torch.tensor([2.0]).log())
    torch.testing.assert_close(found.grad_hidden, torch.tensor([[-0.5, 0.0, 0.5]]))


def test_nan_stays_in_its_token(token_scores: Any) -> None:
    hidden, weight, _, labels = problem(6, 8, 50)
    hidden[2, 3] = torch.nan
    found = token_scores(hidden, weight, torch.zeros_like(labels), grad=True)
    for value in found:
        bad = value.isnan().reshape(6, -1).any(1)
        assert bad.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_layouts(token_scores: Any, layout: str) -> None:
    hidden, weight, _, labels = problem(12, 16, 40)
    expected = token_scores(hidden, weight, labels, grad=True)
    if layout == "transposed":
        hidden, weight = hidden.T.contiguous().T, weight.T.contiguous().T
    else:
        hidden, labels = hidden.repeat_interleave(2, 0)[::2], labels.repeat_interleave(3)[::3]
    for value, truth in zip(token_scores(hidden, weight, labels, grad=True), expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-5, atol=1e-6)


def test_no_tokens(token_scores: Any) -> None:
    found = token_scores(torch.zeros(0, 4), torch.zeros(7, 4), torch.zeros(0, dtype=torch.int64), grad=True)
    assert [list(value.shape) for value in found] == [[0]] * 4 + [[0, 4]]


@pytest.mark.parametrize("grad", [False, True])
def test_wrong_labels_on_an_accelerator_give_nan(grad: bool) -> None:
    """The path of CUDA tensors, on the CPU."""
    hidden, weight, bias, labels = problem(9, 4, 20)
    expected = any_token_scores(hidden, weight, labels, bias=bias, grad=grad)
    spoilt = labels.clone()
    spoilt[[0, 3, 7]] = torch.tensor([20, -1, 2**40])
    *scores, grad_hidden = ops._marking_wrong_labels(hidden, weight, spoilt, bias, grad, "auto")
    for value, truth in zip([*scores, *[grad_hidden] * grad], expected, strict=False):
        assert value[[0, 3, 7]].isnan().all()
        assert torch.equal(value[[1, 2, 4, 5, 6, 8]], truth[[1, 2, 4, 5, 6, 8]])
    assert len(grad_hidden) == 9 * grad


H, W, Y = torch.zeros(3, 4), torch.zeros(7, 4), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((H[0], W, Y), {}, ValueError, r"\[4\]"),
        ((H.int(), W, Y), {}, TypeError, "int32"),
        ((H, W, Y[:2]), {}, ValueError, r"\[2\]"),
        ((H, W, Y.int()), {}, TypeError, "int32"),
        ((H, W[:, :3], Y), {}, ValueError, r"\[7, 3\]"),
        ((H, W.int(), Y), {}, TypeError, "int32"),
        ((H, W[:0], Y), {}, ValueError, "vocabulary is empty"),
        ((H, W, torch.tensor([0, 7, 0])), {}, ValueError, r"labels\[1\]=7"),
        ((H, W, torch.tensor([0, 0, -1])), {}, ValueError, r"labels\[2\]=-1"),
        ((H, W, Y), {"bias": torch.zeros(4)}, ValueError, "bias"),
        ((H, W, Y), {"bias": torch.zeros(7, dtype=torch.int32)}, TypeError, "bias"),
        ((H, W, Y.to("meta")), {}, ValueError, "labels is on meta"),
        ((H, W.to("meta"), Y), {}, ValueError, "weight is on meta"),
        ((H, None, Y), {"bias": torch.zeros(4)}, ValueError, "bias"),
        ((H.double(), W, Y), {"impl": "native"}, RuntimeError, "float64"),
        ((H, W, Y), {"impl": "cuda"}, ValueError, "choose from"),
    ],
)
def test_bad_arguments(arguments: tuple, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        any_token_scores(*arguments, **options)
