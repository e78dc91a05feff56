"""A frozen model's Linear modules run by oneDNN: the same numbers up to rounding, and as before afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adaptinf.capture.products import fast_products

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def layer(d_in: int, d_out: int, bias: bool) -> nn.Linear:
    torch.manual_seed(d_in + d_out)
    return nn.Linear(d_in, d_out, bias=bias).requires_grad_(False)


@pytest.mark.parametrize(("rows", "d_in", "d_out"), [((0,), 5, 3), ((1,), 1, 1), ((2, 63), 33, 70), ((500,), 130, 17)])
@pytest.mark.parametrize("bias", [False, True])
def test_forward_and_backward(rows: tuple[int, ...], d_in: int, d_out: int, bias: bool) -> None:
    module = layer(d_in, d_out, bias)
    x = torch.randn(*rows, d_in, requires_grad=True)
    with fast_products(nn.Sequential(module)):
        assert "forward" in vars(module)
        y = module(x)
    grad = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, grad)
    with torch.no_grad():
        wide = nn.functional.linear(x.double(), module.weight.double(), module.bias.double() if bias else None)
        rough = nn.functional.linear(x, module.weight, module.bias)
        exact, peer = grad.double() @ module.weight.double(), grad @ module.weight
        eps = torch.finfo(torch.float32).eps
        for ours, torchs, truth in ((y, rough, wide), (found, peer, exact)):
            if truth.numel():
                bound = 2 * (torchs.double() - truth).abs().max() + 4 * eps * truth.abs().max()
                assert (ours.double() - truth).abs().max() <= bound


def test_what_it_leaves_alone() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleList([Own(3, 3).requires_grad_(False), nn.LayerNorm(3)])
    with fast_products(model):
        assert not any("forward" in vars(module) for module in model)
    low, frozen = layer(3, 3, False).bfloat16(), layer(3, 3, True)
    with fast_products(nn.ModuleList([low, frozen])):
        assert low(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert frozen(torch.zeros(2, 3)).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert frozen(torch.zeros(2, 3)).dtype == torch.bfloat16
    assert "forward" not in vars(frozen)


@pytest.mark.parametrize("trains", ["weight", "bias"])
def test_what_trains_gets_its_gradient(trains: str) -> None:
    """Also where it is unfrozen only after the context was opened."""
    module = layer(3, 5, True)
    x = torch.randn(4, 3)
    with fast_products(module):
        module.get_parameter(trains).requires_grad_(True)
        module(x).sum().backward()
    expected = x.sum(0).expand(5, 3) if trains == "weight" else torch.full((5,), 4.0)
    assert torch.allclose(module.get_parameter(trains).grad, expected)


def test_hooks_and_nesting() -> None:
    module = layer(4, 6, False)
    seen: list[torch.Size] = []
    with module.register_forward_hook(lambda _, args, y: seen.append(y.shape)), fast_products(module):
        with fast_products(module):
            module(torch.zeros(2, 4))
        module(torch.zeros(3, 4))
        assert "forward" in vars(module)
    assert "forward" not in vars(module)
    assert seen == [(2, 6), (3, 6)]


def test_compiled_inside() -> None:
    torch.compiler.reset()
    model = nn.Sequential(layer(6, 5, True), nn.Tanh(), layer(5, 3, False))
    x = torch.randn(4, 6, requires_grad=True)
    with fast_products(model):
        y = torch.compile(model)(x)
        (found,) = torch.autograd.grad(y.square().sum(), x)
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    torch.compiler.reset()
