"""Layouts of the tokens in memory that must not change a bit, for the tests of every sketch on Triton."""

from __future__ import annotations

from dataclasses import replace

import torch
from adaptinf_kernels import Sketch

from tests.kernels.sketch_oracle import Problem


def assert_any_strides(problem: Problem, sketch: Sketch) -> None:
    """A window of a wider matrix, columns side by side, one row expanded."""
    expected = problem.run(sketch, "triton").sketch
    for change in (
        lambda tensor: torch.full((len(tensor) + 1, tensor.shape[1] + 3), 7.0)[1:, 2:-1].copy_(tensor),
        lambda tensor: tensor.T.contiguous().T,
    ):
        tokens = {key: change(tensor) for key, tensor in problem.tokens.items()}
        assert torch.equal(replace(problem, tokens=tokens).run(sketch, "triton").sketch, expected)
    one = {key: tensor[:1].expand(tensor.shape) for key, tensor in problem.tokens.items()}
    same = {key: tensor.contiguous() for key, tensor in one.items()}
    found, expected = (replace(problem, tokens=tokens).run(sketch, "triton").sketch for tokens in (one, same))
    assert torch.equal(found, expected)


def assert_rows_far_apart(problem: Problem, sketch: Sketch) -> None:
    """Offsets beyond 2^31 elements; only the pages that are read are memory. ``problem`` has six tokens or more."""
    apart = {
        key: torch.empty_strided(tensor.shape, (2**31 // 5 + 16, 1)).copy_(tensor)
        for key, tensor in problem.tokens.items()
    }
    assert all((len(tensor) - 1) * tensor.stride(0) > 2**31 for tensor in apart.values())
    expected = problem.run(sketch, "triton").sketch
    assert torch.equal(replace(problem, tokens=apart).run(sketch, "triton").sketch, expected)
