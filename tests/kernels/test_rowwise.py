"""``swiglu`` and ``rms_norm`` against float64, and the bits they promise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from adaptinf_kernels import NotSupportedError, build_info, rms_norm, swiglu
from adaptinf_kernels.rms_norm import native as norm_native
from adaptinf_kernels.swiglu import native as gate_native
from torch import Tensor

IMPLS = ["reference", *(f"native {level}" for level in build_info().get("cpu", {}).get("levels", []))]
SHAPES = [(1, 1), (2, 63, 33), (500, 17), (7, 128), (3, 1000), (5,)]
EMPTY = [(0, 5), (3, 0), (2, 0, 4)]
Op = Callable[..., Tensor]


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name, _, level = request.param.partition(" ")
    monkeypatch.setattr(norm_native, "CPU_LEVEL", level)
    monkeypatch.setattr(gate_native, "CPU_LEVEL", level)
    return name


def normal(*shape: int, seed: int, spread: float = 2.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread


def check(found: Tensor, truth: Tensor, roundings: float, size: Tensor, dtype: torch.dtype) -> None:
    """Off by ``roundings`` float32 roundings of numbers of ``size``, and by one of the result's dtype."""
    eps = torch.finfo(torch.float32).eps
    own = torch.finfo(dtype).eps if dtype != torch.float32 else 0.0
    assert found.dtype == dtype
    assert ((found.double() - truth).abs() <= roundings * eps * size + own * truth.abs() + 1e-37).all()


@pytest.mark.parametrize("shape", [*SHAPES, *EMPTY], ids=str)
def test_swiglu(shape: tuple[int, ...], impl: str) -> None:
    gate, up, grad = normal(*shape, seed=0, spread=8), normal(*shape, seed=1), normal(*shape, seed=2)
    inputs = [gate.requires_grad_(), up.requires_grad_()]
    out = swiglu(*inputs, impl=impl)
    found = torch.autograd.grad(out, inputs, grad)
    x, y, g = gate.detach().double(), up.detach().double(), grad.double()
    s = x.sigmoid()
    # sigmoid(x) in float32 is off by some roundings of itself, and 1 - sigmoid(x) by a rounding of 1.
    check(out, x * s * y, 8, (x * s * y).abs(), torch.float32)
    check(found[0], g * y * s * (1 + x * (1 - s)), 8, (g * y * s).abs() * (1 + x.abs()), torch.float32)
    check(found[1], g * x * s, 8, (g * x * s).abs(), torch.float32)


def test_swiglu_at_the_ends(impl: str) -> None:
    x = torch.tensor([0.0, -0.0, 87.0, -87.0, 200.0, -200.0, 1e30, -1e30, torch.inf, torch.nan] * 2)
    y = swiglu(x, torch.ones_like(x), impl=impl)
    truth = torch.nn.functional.silu(x.double())
    finite = truth.isfinite()
    assert torch.equal(y.isfinite(), finite)
    assert ((y.double() - truth).abs()[finite] <= 1e-6 * truth.abs()[finite] + 1e-35).all()


@pytest.mark.parametrize("shape", [*SHAPES, *EMPTY], ids=str)
@pytest.mark.parametrize("epsilon", [0.1, 1e-6])
def test_rms_norm(shape: tuple[int, ...], epsilon: float, impl: str) -> None:
    x, weight, grad = normal(*shape, seed=0), normal(shape[-1], seed=1), normal(*shape, seed=2)
    inputs = [x.requires_grad_(), weight.requires_grad_()]
    out = rms_norm(*inputs, epsilon, impl=impl)
    found = torch.autograd.grad(out, inputs, grad)
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    truth = wide[1] * wide[0] * (wide[0].square().mean(-1, keepdim=True) + epsilon).rsqrt()
    wanted = torch.autograd.grad(truth, wide, grad.double())
    if out.numel():
        x, weight, grad = wide[0].detach(), wide[1].detach(), grad.double()
        root = (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()
        width, rows = shape[-1], out.numel() // shape[-1]
        check(out, truth, width / 2 + 8, truth.abs(), torch.float32)
        size = root * (weight * grad).abs() + x.abs() * root**3 * (weight * grad * x).abs().mean(-1, keepdim=True)
        check(found[0], wanted[0], 3 * width + 16, size, torch.float32)
        size = (grad * x * root).abs().reshape(-1, width).sum(0)
        check(found[1], wanted[1], width / 2 + rows + 8, size, torch.float32)
    assert found[0].shape == x.shape
    assert found[1].shape == weight.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    """The reference, which ``auto`` falls to: float32 within, rounded once."""
    x, y = normal(9, 40, seed=0).to(dtype), normal(9, 40, seed=1).to(dtype)
    wide = [x.double(), y.double()]
    check(swiglu(x, y), torch.nn.functional.silu(wide[0]) * wide[1], 8, wide[0].abs() * wide[1].abs(), dtype)
    truth = wide[1][0] * wide[0] * (wide[0].square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    check(rms_norm(x, y[0], 1e-3), truth, 30, truth.abs(), dtype)
    if build_info()["native"]:
        with pytest.raises(NotSupportedError, match="it takes float32"):
            swiglu(x, y, impl="native")
        with pytest.raises(NotSupportedError, match="it takes float32"):
            rms_norm(x, y[0], 1e-3, impl="native")


def both(x: Tensor, y: Tensor, grad: Tensor, impl: str) -> list[Tensor]:
    inputs = [x.detach().requires_grad_(), y.detach().requires_grad_()]
    gated = swiglu(*inputs, impl=impl)
    normed = rms_norm(inputs[0], torch.ones_like(inputs[0][0]), 1e-6, impl=impl)
    slopes = torch.autograd.grad(gated, inputs, grad, retain_graph=True)
    return [gated.detach(), normed.detach(), *slopes, *torch.autograd.grad(normed, inputs[:1], grad)]


def test_layouts(impl: str) -> None:
    x, y, grad = normal(12, 40, seed=0), normal(12, 40, seed=1), normal(12, 40, seed=2)
    expected = both(x, y, grad, impl)
    across = [tensor.T.contiguous().T for tensor in (x, y, grad)]
    wider = [torch.cat([tensor, tensor], 1)[:, :40] for tensor in (x, y, grad)]
    same = torch.equal if impl == "native" else partial(torch.allclose, rtol=1e-5, atol=1e-5)
    for inputs in (across, wider):
        assert all(map(same, both(*inputs, impl), expected))
    row = x[:1].expand(12, 40)
    assert all(map(same, both(row, y, grad, impl), both(row.contiguous(), y, grad, impl)))


@pytest.mark.skipif(not build_info()["native"], reason="no native module")
def test_far_rows() -> None:
    storage = torch.empty(2**31 + 64)  # untouched pages take no memory
    far = torch.as_strided(storage, (2, 40), (2**31, 1))
    far.copy_(normal(2, 40, seed=0))
    y, grad = normal(2, 40, seed=1), normal(2, 40, seed=2)
    assert all(map(torch.equal, both(far, y, grad, "native"), both(far.clone(), y, grad, "native")))


@pytest.mark.skipif(not build_info()["native"], reason="no native module")
def test_bits_depend_on_the_row_alone() -> None:
    x, y, grad = normal(900, 70, seed=0), normal(900, 70, seed=1), normal(900, 70, seed=2)
    whole = both(x, y, grad, "native")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, both(x, y, grad, "native"), whole))
    finally:
        torch.set_num_threads(before)
    part = slice(331, 340)
    assert all(map(torch.equal, both(x[part], y[part], grad[part], "native"), [one[part] for one in whole]))


def test_errors() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(TypeError, match="one floating-point dtype"):
        swiglu(x, x.double())
    with pytest.raises(ValueError, match=r"must be the same \[..., m\]"):
        swiglu(x, x[:1])
    with pytest.raises(TypeError, match="one floating-point dtype"):
        rms_norm(x, x[0].half(), 1e-6)
    with pytest.raises(ValueError, match=r"\[..., d\] and \[d\]"):
        rms_norm(x, x[0, :2], 1e-6)
    with pytest.raises(ValueError, match="epsilon must not be negative"):
        rms_norm(x, x[0], -1.0)


def test_opcheck() -> None:
    x, y = normal(4, 5, seed=0).T.requires_grad_(), normal(4, 5, seed=1).T.requires_grad_()
    for impl in ("auto", "reference"):
        torch.library.opcheck(torch.ops.adaptinf_kernels.swiglu.default, (x, y, impl))
        torch.library.opcheck(torch.ops.adaptinf_kernels.rms_norm.default, (x, y[0], 1e-6, impl))
