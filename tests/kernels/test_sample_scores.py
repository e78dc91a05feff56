"""Scores of samples against loops over their tokens."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from adaptinf_kernels import TokenScores, sample_scores, token_scores
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.test_token_scores import problem

hidden, weight, bias, LABELS = problem(40, 8, 90)
SCORES = token_scores(hidden, weight, LABELS, bias=bias)


def loop(start: int, stop: int, labels: torch.Tensor | None) -> list[float]:
    tokens = [t for t in range(start, stop) if labels is None or labels[t] != -100]
    nll, entropy, el2n_sq, margin = ([float(column[t]) for t in tokens] for column in SCORES[:4])
    columns = nll, [math.exp(x) for x in nll], entropy, [math.sqrt(x) for x in el2n_sq], margin
    return [math.fsum(column) / len(tokens) if tokens else math.nan for column in columns] + [len(tokens)]


@given(st.lists(st.integers(0, 40), max_size=6).map(sorted), st.booleans(), st.sampled_from([torch.int32, torch.int64]))
def test_equals_a_loop(bounds: list[int], every: bool, dtype: torch.dtype) -> None:
    bounds = [0, *bounds, 40]
    labels = None if every else LABELS
    found = torch.stack(
        [x.double() for x in sample_scores(SCORES, torch.tensor(bounds, dtype=dtype), labels=labels)], 1
    )
    expected = torch.tensor([loop(*pair, labels) for pair in itertools.pairwise(bounds)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0, equal_nan=True)


def test_bits_do_not_depend_on_the_batch() -> None:
    whole = sample_scores(SCORES, torch.tensor([0, 7, 30, 40]))
    part = sample_scores(TokenScores(*(x[7:30] for x in SCORES[:4]), None), torch.tensor([0, 23]))
    for one, many in zip(part, whole, strict=True):
        assert torch.equal(one[0], many[1])


def test_tokens_that_do_not_count_may_be_nan() -> None:
    spoilt = SCORES._replace(nll=SCORES.nll.masked_fill(LABELS == -100, torch.nan))
    for value, other in zip(
        *(sample_scores(x, torch.tensor([0, 40]), labels=LABELS) for x in (spoilt, SCORES)), strict=True
    ):
        assert torch.equal(value, other)


@pytest.mark.parametrize(
    ("cu_seqlens", "labels", "error", "message"),
    [
        ([0, 39], None, ValueError, "from 0 to T=40"),
        ([0, 9, 5, 40], None, ValueError, "must not fall"),
        ([0.0, 40.0], None, TypeError, "float32"),
        ([[0, 40]], None, ValueError, r"\[B \+ 1\]"),
        ([0, 40], LABELS[:3], ValueError, r"labels must be \[T=40\]"),
    ],
)
def test_bad_arguments(cu_seqlens: list, labels: torch.Tensor | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample_scores(SCORES, torch.tensor(cu_seqlens), labels=labels)
