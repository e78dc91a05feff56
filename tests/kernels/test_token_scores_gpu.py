"""Token scores on a CUDA device: the oracle, and bits that depend on the token alone."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import TokenScores, token_scores

from tests.kernels.test_token_scores import assert_close, problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "width", "vocabulary"), [(63, 20, 1000), (500, 576, 20_000), (9, 5, 1)])
def test_equals_autograd(dtype: torch.dtype, tokens: int, width: int, vocabulary: int) -> None:
    parts = problem(tokens, width, vocabulary, dtype)
    hidden, weight, bias, labels = (part.cuda() for part in parts)
    found = token_scores(hidden, weight, labels, bias=bias, grad=True, impl="triton")
    assert_close(TokenScores(*(value.cpu() for value in found)), parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_depend_on_the_token_alone(dtype: torch.dtype) -> None:
    hidden, weight, bias, labels = (part.cuda() for part in problem(700, 320, 20_000, dtype))
    whole = token_scores(hidden, weight, labels, bias=bias, grad=True, impl="triton")
    order = torch.randperm(700, generator=torch.Generator().manual_seed(0)).cuda()
    for index in (order, order[:1], order[3:200]):
        found = token_scores(hidden[index], weight, labels[index], bias=bias, grad=True, impl="triton")
        for value, other in zip(found, whole, strict=True):
            assert torch.equal(value.view(torch.int32), other[index].view(torch.int32))
