"""The preconditioners against what they are named after: LESS's code, and the step that torch's optimisers take."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import Preconditioner, Sketch, grad_sketch_linear
from adaptinf_kernels.sketch.preconditioner import NONE, direction


def stepped(
    kind: type[torch.optim.Optimizer], steps: int, **settings
) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(1)
    parameter = torch.nn.Parameter(torch.randn(6, 5, generator=generator, dtype=torch.float64))
    optimizer = kind([parameter], **settings)
    for _ in range(steps):
        parameter.grad = torch.randn(6, 5, generator=generator, dtype=torch.float64)
        optimizer.step()
    return parameter, optimizer


@pytest.mark.parametrize("steps", [1, 2, 40])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.Adam, {"lr": 0.5, "betas": (0.8, 0.95), "eps": 1e-3}),
        (torch.optim.Adam, {"lr": 0.5}),
        (torch.optim.AdamW, {"lr": 0.5, "weight_decay": 0.0}),
    ],
)
def test_adam_is_the_step_that_torch_takes(kind: type[torch.optim.Optimizer], settings: dict, steps: int) -> None:
    parameter, optimizer = stepped(kind, steps, **settings)
    gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = direction(gradient, Preconditioner.of_optimizer(optimizer, parameter).arguments)
    before = parameter.detach().clone()
    parameter.grad = gradient
    optimizer.step()
    torch.testing.assert_close(found, (before - parameter.detach()) / 0.5, rtol=1e-9, atol=1e-12)


def test_less_is_what_its_code_computes() -> None:
    """Its ``obtain_gradients_with_adam`` on flat vectors: beta1 0.9, beta2 0.999, eps 1e-8."""
    parameter, optimizer = stepped(torch.optim.AdamW, 3, lr=0.1)
    gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    flat, state = gradient.view(-1), optimizer.state[parameter]
    averaged = 0.9 * state["exp_avg"].view(-1) + 0.1 * flat
    squared = 0.999 * state["exp_avg_sq"].view(-1) + 0.001 * flat**2
    expected = averaged / torch.sqrt(squared + 1e-8)
    for preconditioner in (
        Preconditioner.less(state["exp_avg"], state["exp_avg_sq"]),
        Preconditioner.of_optimizer(optimizer, parameter, form="less"),
    ):
        found = direction(gradient, preconditioner.arguments).view(-1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_less_has_epsilon_inside_the_root_and_no_bias_correction() -> None:
    zeros = torch.zeros(1, 1, dtype=torch.float64)
    less = Preconditioner.less(zeros, zeros, beta1=0.9, beta2=0.999, eps=1e-8)
    tiny = torch.full((1, 1), 1e-9, dtype=torch.float64)
    torch.testing.assert_close(direction(tiny, less.arguments), torch.full((1, 1), 1e-10 / 1e-4, dtype=torch.float64))
    adam = Preconditioner.adam(zeros, zeros, step=1)
    one = torch.ones(1, 1, dtype=torch.float64)
    torch.testing.assert_close(direction(one, adam.arguments), one, rtol=1e-7, atol=0)
    expected = torch.full_like(one, 0.1 / 0.001**0.5)
    torch.testing.assert_close(direction(one, less.arguments), expected, rtol=1e-4, atol=0)


def test_diagonal_and_none() -> None:
    gradient, scale = torch.randn(3, 4), torch.rand(3, 4)
    assert torch.equal(direction(gradient, Preconditioner.diagonal(scale).arguments), gradient * scale)
    assert direction(gradient, NONE) is gradient


def test_a_sample_without_tokens_has_no_direction() -> None:
    ones = torch.ones(2, 3)
    for preconditioner in (Preconditioner.less(ones, ones), Preconditioner.adam(ones, ones, step=2)):
        found = grad_sketch_linear(
            torch.zeros(4, 3), torch.zeros(4, 2), torch.tensor([0, 0, 4]), Sketch("sjlt", 8), name="w",
            preconditioner=preconditioner, return_norms=True,
        )  # fmt: skip
        assert not found.sketch[0].any()
        assert found.sketch[1].any()
        assert found.squared_norms is not None
        assert found.squared_norms[0] == 0 < found.squared_norms[1]


def test_what_cannot_be_a_preconditioner() -> None:
    parameter, optimizer = stepped(torch.optim.SGD, 1, lr=0.1)
    with pytest.raises(ValueError, match="no exp_avg"):
        Preconditioner.of_optimizer(optimizer, parameter)
    with pytest.raises(ValueError, match="does not train this parameter"):
        Preconditioner.of_optimizer(optimizer, torch.zeros(6, 5))
    parameter, optimizer = stepped(torch.optim.Adam, 0, lr=0.1)
    with pytest.raises(ValueError, match="has it stepped"):
        Preconditioner.of_optimizer(optimizer, parameter)
    ones = torch.ones(2, 2)
    with pytest.raises(ValueError, match="step=0"):
        Preconditioner.adam(ones, ones, step=0)
    with pytest.raises(TypeError, match="exp_avg_sq must be floating point"):
        Preconditioner.less(ones, ones.int())
    with pytest.raises(TypeError, match="scale must be floating point"):
        Preconditioner.diagonal(ones.long())
