"""Attention against float64: values, gradients, masks, layouts, instruction sets, and the bits it promises."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from adaptinf_kernels import NotSupportedError, attention, build_info
from adaptinf_kernels.attention import native as attention_native
from torch import Tensor

IMPLS = ["reference", *(f"native {level}" for level in build_info().get("cpu", {}).get("levels", []))]
EPS = torch.finfo(torch.float32).eps


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name, _, level = request.param.partition(" ")
    monkeypatch.setattr(attention_native, "CPU_LEVEL", level)
    return name


def heads(batch: int, count: int, tokens: int, width: int, seed: int) -> Tensor:
    """As a projection leaves them: a token's heads side by side."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, count, width, generator=generator).transpose(1, 2)


def exact(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Float64, a query at a time over the keys that it sees."""
    group = q.shape[1] // max(k.shape[1], 1)
    rows = []
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                of = seen[b, h, t].nonzero().flatten()
                keys, values = k[b, h // group][of], v[b, h // group][of]
                scores = keys @ q[b, h, t] * scale
                rows.append(scores.softmax(0) @ values)  # of no key: zeros
    return torch.stack(rows).unflatten(0, q.shape[:3])


def compare(found: Tensor, truth: Tensor, terms: int, size: float) -> None:
    """Rounding of sums of ``terms`` products whose absolute values add up to at most ``size``."""
    assert (found.double() - truth).abs().max() <= 4 * (terms + 8) * EPS * size


SHAPES = [  # batch, heads, key heads, queries, keys, width, value width
    (1, 1, 1, 1, 1, 1, 1), (2, 4, 4, 27, 27, 32, 32), (1, 2, 1, 63, 63, 33, 7), (2, 6, 2, 33, 50, 16, 24),
    (1, 1, 1, 70, 5, 3, 48), (1, 2, 2, 4, 500, 8, 8),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["all", "causal", "mask", "mask of heads and causal"])
def test_values_and_gradients(shape: tuple[int, ...], kind: str, impl: str) -> None:
    batch, count, groups, queries, keys, width, value_width = shape
    q, k = heads(batch, count, queries, width, 0), heads(batch, groups, keys, width, 1)
    v, grad = heads(batch, groups, keys, value_width, 2), heads(batch, count, queries, value_width, 3)
    mask = None
    if "mask" in kind:
        generator = torch.Generator().manual_seed(4)
        mask = torch.rand(batch, count if "heads" in kind else 1, queries, keys, generator=generator) < 0.6
        mask[0, 0, queries // 2] = False  # sees nothing
    seen = torch.ones(batch, count, queries, keys, dtype=torch.bool) if mask is None else mask.expand(-1, count, -1, -1)
    seen = seen.tril() if "causal" in kind else seen
    scale = width**-0.5
    wide = [tensor.double().requires_grad_() for tensor in (q, k, v)]
    truth = exact(*wide, seen, scale)
    wanted = torch.autograd.grad(truth, wide, grad.double())
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    out = attention(*inputs, mask=mask, causal="causal" in kind, impl=impl)
    found = torch.autograd.grad(out, inputs, grad)
    # Scores are off by `width` roundings of numbers of size |q||k| scale; what follows them is off by as much.
    score = scale * q.norm(dim=-1).max().item() * k.norm(dim=-1).max().item()
    size = v.abs().max().item() * (1 + score)
    compare(out, truth, keys + width, size)
    slope = grad.norm(dim=-1).max().item() * v.norm(dim=-1).max().item() * (1 + score)
    terms, of_keys = keys + width + value_width, (count // groups) * queries
    compare(found[0], wanted[0], terms, 2 * slope * scale * k.abs().max().item())
    compare(found[1], wanted[1], terms + of_keys, 2 * of_keys * slope * scale * q.abs().max().item())
    compare(found[2], wanted[2], terms + of_keys, of_keys * grad.abs().max().item() * (1 + score))


def test_equals_torch(impl: str) -> None:
    q, k, v = (heads(3, 4, 40, 32, seed).requires_grad_() for seed in range(3))
    mask = torch.ones(3, 1, 40, 40, dtype=torch.bool).tril() & (torch.arange(40) < 35)
    ours = attention(q, k, v, mask=mask, scale=0.3, impl=impl)
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    grad = heads(3, 4, 40, 32, 5)
    pairs = zip(*(torch.autograd.grad(y, (q, k, v), grad) for y in (ours, theirs)), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


NOTHING = [
    (0, 2, 2, 3, 3, 4, 4), (1, 0, 0, 3, 3, 4, 4), (1, 2, 2, 0, 3, 4, 4), (1, 2, 2, 3, 0, 4, 4), (1, 2, 2, 3, 3, 4, 0)
]  # fmt: skip


@pytest.mark.parametrize("shape", NOTHING, ids=str)
def test_nothing(shape: tuple[int, ...], impl: str) -> None:
    batch, count, groups, queries, keys, width, value_width = shape
    sizes = (count, queries, width), (groups, keys, width), (groups, keys, value_width)
    inputs = [torch.ones(batch, *size, requires_grad=True) for size in sizes]
    out = attention(*inputs, impl=impl)
    assert out.shape == (batch, count, queries, value_width)
    found = torch.autograd.grad(out.sum(), inputs)
    assert not out.any()
    assert not any(one.any() for one in found)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_not_hidden(bad: float, impl: str) -> None:
    q, k, v = (heads(1, 1, 20, 8, seed) for seed in range(3))
    k[0, 0, 3, 5] = bad
    out = attention(q, k, v, causal=True, impl=impl)
    assert out[0, 0, :3].isfinite().all()
    assert not out[0, 0, 3:].isfinite().all(1).any() if bad != bad else not out.isfinite().all()


def test_layouts(impl: str) -> None:
    """Contiguous, permuted and expanded."""
    same = torch.equal if impl == "native" else partial(torch.allclose, rtol=1e-5, atol=1e-5)
    q, k, v = (heads(2, 2, 10, 8, seed) for seed in range(3))
    expected = attention(q, k, v, impl=impl)
    across = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in (q, k, v)]
    assert same(attention(*across, impl=impl), expected)
    assert same(attention(*(tensor.contiguous() for tensor in (q, k, v)), impl=impl), expected)
    shared = k[:1, :1].expand(2, 2, -1, -1)
    assert same(attention(q, shared, v, impl=impl), attention(q, shared.contiguous(), v, impl=impl))
    mask = (torch.arange(10) < 6).expand(2, 2, 10, 10)
    assert same(attention(q, k, v, mask=mask, impl=impl), attention(q, k, v, mask=mask.clone(), impl=impl))


@pytest.mark.skipif(not build_info()["native"], reason="no native module")
def test_far_rows() -> None:
    storage = torch.empty(2**31 + 64)  # untouched pages take no memory
    far = torch.as_strided(storage, (2, 1, 1, 8), (2**31, 8, 8, 1))
    far.copy_(heads(2, 1, 1, 8, 0))
    k, v = heads(2, 1, 4, 8, 1), heads(2, 1, 4, 8, 2)
    assert torch.equal(attention(far, k, v, impl="native"), attention(far.clone(), k, v, impl="native"))


@pytest.mark.skipif(not build_info()["native"], reason="no native module")
def test_bits_depend_on_the_head_alone() -> None:
    q, k, v = (heads(5, 3, 45, 20, seed) for seed in range(3))
    grad, mask = heads(5, 3, 45, 20, 4), torch.rand(5, 1, 45, 45) < 0.7

    def passes(rows: slice, threads: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            inputs = [tensor[rows].clone().requires_grad_() for tensor in (q, k, v)]
            out = attention(*inputs, mask=mask[rows], causal=True, impl="native")
            return [out.detach(), *torch.autograd.grad(out, inputs, grad[rows])]
        finally:
            torch.set_num_threads(before)

    whole = passes(slice(None), 1)
    for threads in (2, 3, 7):
        assert all(map(torch.equal, passes(slice(None), threads), whole))
    for row in (0, 3, 4):
        assert all(map(torch.equal, passes(slice(row, row + 1), 2), [one[row : row + 1] for one in whole]))


def test_errors() -> None:
    q = torch.zeros(2, 4, 3, 8)
    with pytest.raises(ValueError, match=r"key must be \[batch, heads, tokens, width\]"):
        attention(q, q[0], q)
    with pytest.raises(TypeError, match=r"value is torch\.float64"):
        attention(q, q, q.double())
    with pytest.raises(ValueError, match=r"value \[B, G, S, e\]"):
        attention(q, q, q[:, :, :2])
    with pytest.raises(ValueError, match="no multiple of the 3"):
        attention(q, q[:, :3], q[:, :3])
    with pytest.raises(TypeError, match="mask must be bool"):
        attention(q, q, q, mask=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="does not broadcast"):
        attention(q, q, q, mask=torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="no columns"):
        attention(q[..., :0], q[..., :0], q)
    with pytest.raises(NotSupportedError, match=r"it takes float32, not torch\.float64"):
        attention(q.double(), q.double(), q.double(), impl="native")


def test_opcheck() -> None:
    q, k, v = (heads(2, 4, 5, 8, seed).requires_grad_() for seed in range(3))
    mask = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 4, 5, 5)
    for impl in ("auto", "reference"):
        torch.library.opcheck(torch.ops.adaptinf_kernels.attention.default, (q, k, v, mask, False, 0.3, impl))
        torch.library.opcheck(torch.ops.adaptinf_kernels.attention.default, (q, k, v, None, True, 0.3, impl))


def test_compiled() -> None:
    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, causal=True).square().sum()

    torch.compiler.reset()
    inputs = [heads(2, 2, 6, 8, seed).requires_grad_() for seed in range(3)]
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs), inputs)
    assert all(map(torch.equal, found, torch.autograd.grad(loss(*inputs), inputs)))
    torch.compiler.reset()
