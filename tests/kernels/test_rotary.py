"""``rotary`` against float64, and the bits it promises."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import NotSupportedError, build_info, rotary
from adaptinf_kernels.rotary import native
from torch import Tensor

IMPLS = ["reference", *(f"native {level}" for level in build_info().get("cpu", {}).get("levels", []))]
SHAPES = [(1, 1, 1, 2), (2, 3, 63, 8), (1, 4, 500, 16), (3, 2, 7, 34), (2, 1, 5, 128)]
EMPTY = [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0)]


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name, _, level = request.param.partition(" ")
    monkeypatch.setattr(native, "CPU_LEVEL", level)
    return name


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Entry by entry from the definition, in float64."""
    x, cos, sin = x.double(), cos.double()[:, None], sin.double()[:, None]
    half = x.shape[-1] // 2
    partner = torch.empty_like(x)
    for i in range(half):
        partner[..., i], partner[..., half + i] = -x[..., half + i], x[..., i]
    return x * cos + partner * sin


@pytest.mark.parametrize("shape", [*SHAPES, *EMPTY], ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["", "one table"])
def test_output_and_gradient(shape: tuple[int, ...], shared: bool, impl: str) -> None:
    """Cosines and sines of the two halves differ here, as nothing says that they are those of one angle."""
    batch, _, tokens, width = shape
    x, grad = normal(*shape, seed=0).requires_grad_(), normal(*shape, seed=1)
    cos, sin = (normal(1 if shared else batch, tokens, width, seed=seed) for seed in (2, 3))
    out = rotary(x, cos, sin, impl=impl)
    (found,) = torch.autograd.grad(out, x, grad)
    wide = x.detach().double().requires_grad_()
    truth = turned(wide, cos, sin)
    (wanted,) = torch.autograd.grad(truth, wide, grad.double())
    eps = torch.finfo(torch.float32).eps
    size = turned(x.detach().abs(), cos.abs(), -sin.abs()).abs() + turned(x.detach().abs(), cos.abs(), sin.abs()).abs()
    assert out.shape == found.shape == x.shape
    assert ((out.double() - truth).abs() <= 2 * eps * size).all()
    of_grad = [turned(grad.abs(), cos.abs(), sign * sin.abs().roll(width // 2, -1)).abs() for sign in (1, -1)]
    assert ((found.double() - wanted).abs() <= 2 * eps * sum(of_grad)).all()


def test_turning_back_gives_the_input(impl: str) -> None:
    angle = torch.arange(40)[:, None] / 100 ** (torch.arange(8) / 8)
    cos, sin = (torch.cat([table, table], 1)[None] for table in (angle.cos(), angle.sin()))
    x = normal(2, 3, 40, 16, seed=0)
    there = rotary(x, cos, sin, impl=impl)
    assert torch.allclose(there.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    assert not torch.allclose(there, x, atol=0.1)
    assert torch.allclose(rotary(there, cos, -sin, impl=impl), x, atol=1e-5)


def test_layouts_and_far_rows(impl: str) -> None:
    x, cos, sin = normal(2, 4, 9, 6, seed=0), normal(2, 9, 6, seed=1), normal(2, 9, 6, seed=2)
    expected = rotary(x, cos, sin, impl=impl)
    tokens_first = x.transpose(1, 2).contiguous().transpose(1, 2)
    columns_apart = torch.stack([x, x], -1)[..., 0]
    assert torch.equal(rotary(tokens_first, cos, sin, impl=impl), expected)
    assert torch.equal(rotary(columns_apart, torch.stack([cos, cos], -1)[..., 0], sin, impl=impl), expected)
    storage = torch.empty(2**31 + 1024)  # untouched pages take no memory
    far = torch.as_strided(storage, (2, 4, 9, 6), (2**31, 54, 6, 1))
    far.copy_(x)
    assert torch.equal(rotary(far, cos, sin, impl=impl), expected)


@pytest.mark.skipif(not build_info()["native"], reason="no native module")
def test_bits_depend_on_the_token_alone() -> None:
    x, cos, sin = normal(3, 5, 400, 12, seed=0), normal(1, 400, 12, seed=1), normal(1, 400, 12, seed=2)
    whole = rotary(x, cos, sin, impl="native")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(rotary(x, cos, sin, impl="native"), whole)
    finally:
        torch.set_num_threads(before)
    part = rotary(x[1:2, :, 200:207], cos[:, 200:207], sin[:, 200:207], impl="native")
    assert torch.equal(part, whole[1:2, :, 200:207])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    x, cos, sin = (normal(2, 3, 5, 8, seed=0, dtype=dtype), *(normal(2, 5, 8, seed=s, dtype=dtype) for s in (1, 2)))
    found, truth = rotary(x, cos, sin), turned(x, cos, sin)
    assert found.dtype == dtype
    size = turned(x.abs(), cos.abs(), -sin.abs()).abs() + turned(x.abs(), cos.abs(), sin.abs()).abs()
    assert ((found.double() - truth).abs() <= torch.finfo(dtype).eps * truth.abs() + 2e-7 * size).all()
    if build_info()["native"]:
        with pytest.raises(NotSupportedError, match="it takes float32"):
            rotary(x, cos, sin, impl="native")


def test_errors() -> None:
    x, table = torch.zeros(2, 3, 5, 8), torch.zeros(2, 5, 8)
    with pytest.raises(ValueError, match="even width"):
        rotary(x[..., :7], table[..., :7], table[..., :7])
    with pytest.raises(ValueError, match="even width"):
        rotary(x[0], table, table)
    with pytest.raises(ValueError, match=r"cos must be \[2 or 1, 5, 8\]"):
        rotary(x, table[:, :4], table)
    with pytest.raises(ValueError, match=r"sin must be \[2 or 1, 5, 8\]"):
        rotary(x, table, torch.zeros(3, 5, 8))
    with pytest.raises(TypeError, match="one floating-point dtype"):
        rotary(x, table, table.double())
    with pytest.raises(ValueError, match="cos asks for a gradient"):
        rotary(x, table.clone().requires_grad_(), table)


def test_opcheck() -> None:
    x = normal(2, 5, 3, 8, seed=0).transpose(1, 2).requires_grad_()
    cos, sin = normal(1, 5, 8, seed=1), normal(1, 5, 8, seed=2)
    for impl in ("auto", "reference"):
        torch.library.opcheck(torch.ops.adaptinf_kernels.rotary.default, (x, cos, sin, impl))
