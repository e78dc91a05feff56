"""What must not change a bit of other tokens' or samples' sketches, for the tests of every sketch on Triton."""

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


def assert_poison_stays(problem: Problem, sketch: Sketch, poison: float) -> torch.Tensor:
    """One number of ``grad_out`` in the second of six samples is not finite; that sample's sketch is returned."""
    tokens = {**problem.tokens, "grad_out": problem.tokens["grad_out"].clone()}
    tokens["grad_out"][10, 3] = poison
    found = replace(problem, tokens=tokens).run(sketch, "triton", return_norms=True)
    others = [0, 2, 3, 4, 5]
    assert not found.sketch[1].isfinite().all()
    assert torch.equal(found.sketch[others], problem.run(sketch, "triton").sketch[others])
    assert found.squared_norms is not None
    assert found.squared_norms.isfinite().tolist() == [True, False, True, True, True, True]
    return found.sketch[1]
