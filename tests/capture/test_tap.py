"""``capture`` in somebody else's loop: it observes a training backward, recomputed or not, and changes nothing."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import Sketch, project
from torch import nn
from torch.utils.checkpoint import checkpoint

from adaptinf.capture import capture
from adaptinf.errors import UnsupportedModelError

SKETCH = Sketch(kind="sjlt", k=32, seed=1)
TOKENS = torch.tensor([0, 1, 2, 4, 5, 6, 7])  # two samples of 3 and 4 tokens in a padded [2, 4] grid
SEGMENTS = torch.tensor([0, 3, 7], dtype=torch.int32)


class TwoLayers(nn.Module):
    """Uses ``shared`` twice if asked, and recomputes ``first`` in the backward pass if asked."""

    def __init__(self, *, twice: bool = False, recompute: bool = False) -> None:
        super().__init__()
        self.first, self.shared = nn.Linear(6, 5), nn.Linear(5, 5)
        self.twice, self.recompute = twice, recompute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        block = lambda h: torch.tanh(self.first(h))  # noqa: E731
        h = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        h = torch.tanh(self.shared(h))
        return self.shared(h) if self.twice else h


def expected(model: TwoLayers, x: torch.Tensor, names: list[str]) -> torch.Tensor:
    """Each sample alone, by autograd."""
    rows = []
    for row, length in ((0, 3), (1, 4)):
        loss = (model(x[row : row + 1, :length]) ** 2).sum()
        gradients = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
        rows.append(sum(project(g.reshape(1, -1), SKETCH, name=n)[0] for n, g in zip(names, gradients, strict=True)))
    return torch.stack(rows)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_observes_a_training_step(twice: bool, recompute: bool) -> None:
    torch.manual_seed(0)
    model, x = TwoLayers(twice=twice, recompute=recompute), torch.randn(2, 4, 6)
    mask = torch.zeros(8).index_fill(0, TOKENS, 1.0).reshape(2, 4, 1)
    (model(x) ** 2 * mask).sum().backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    names = ["first.weight", "shared.weight"]
    with capture({"first.weight": model.first, "shared.weight": model.shared}, SKETCH) as sink:
        sink.begin(TOKENS, SEGMENTS)
        (model(x) ** 2 * mask).sum().backward()
    torch.testing.assert_close(sink.features, expected(model, x, names), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], rtol=0, atol=0)
    assert not model.first._forward_hooks and not model.shared._forward_hooks


def test_norms_of_a_module_used_twice_are_refused() -> None:
    model, x = TwoLayers(twice=True), torch.randn(2, 4, 6)
    with capture({"shared.weight": model.shared}, SKETCH, norms=True) as sink:
        sink.begin(TOKENS, SEGMENTS)
        with pytest.raises(UnsupportedModelError, match=r"shared\.weight: is used twice"):
            model(x).sum().backward()


def test_norms_are_those_of_the_gradient() -> None:
    torch.manual_seed(1)
    model, x = TwoLayers(), torch.randn(2, 4, 6)
    with capture({"first.weight": model.first}, SKETCH, norms=True) as sink:
        sink.begin(TOKENS, SEGMENTS)
        mask = torch.zeros(8).index_fill(0, TOKENS, 1.0).reshape(2, 4, 1)
        (model(x) ** 2 * mask).sum().backward()
    for row, length in ((0, 3), (1, 4)):
        (gradient,) = torch.autograd.grad((model(x[row : row + 1, :length]) ** 2).sum(), [model.first.weight])
        torch.testing.assert_close(sink.squared_norms[row], (gradient**2).sum(), rtol=1e-5, atol=1e-6)


def test_a_batch_that_was_not_announced_and_a_module_of_other_rows_are_named() -> None:
    model, x = TwoLayers(), torch.randn(2, 4, 6)
    with capture({"first.weight": model.first}, SKETCH) as sink:
        with pytest.raises(RuntimeError, match=r"before GradientSink\.begin"):
            model(x).sum().backward()
        sink.begin(TOKENS + 100, SEGMENTS)
        with pytest.raises(UnsupportedModelError, match="cannot be told apart by sample"):
            model(x).sum().backward()
