# pyright: reportGeneralTypeIssues=false
"""The inner factors of LoRA's gradients, ``X A^T`` and ``G B``; the gradients themselves are those of Linear layers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from adaptinf_kernels._triton import TYPES, Compilation, launch, rows_of_numbers
from adaptinf_kernels.grad_sketch_linear.triton import run as linear
from adaptinf_kernels.grad_sketch_linear.triton_kernels import power_of_two
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import State
from adaptinf_kernels.sketch.triton_samples import slots, tokens_of_slot
from torch import Tensor

_TOKENS, _WIDTH = 64, 32


@triton.jit(do_not_specialize=["samples", "tokens", "rank"])
def factor_kernel(
    x,
    a,
    cu_seqlens,
    out,
    samples,
    tokens,
    width,
    rank,
    stride_x,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = x a^T``: [tokens, width] with [rank, width], the last float32; program: some tokens of a sample."""
    first, last = tokens_of_slot(cu_seqlens, samples, tokens, tl.program_id(0), TOKENS)
    token = first + tl.arange(0, TOKENS)
    r, column = tl.arange(0, RANK), tl.arange(0, WIDTH)
    total = tl.zeros((TOKENS, RANK), tl.float32)
    for begin in range(0, width, WIDTH):
        inside = begin + column < width
        at = x + token[:, None] * stride_x + (begin + column)[None, :]
        x_t = tl.load(at, mask=(token < last)[:, None] & inside[None, :], other=0.0).to(tl.float32)
        at = a + r[None, :] * width + (begin + column)[:, None]
        a_t = tl.load(at, mask=(r < rank)[None, :] & inside[:, None], other=0.0)
        total = tl.dot(x_t, a_t, total, input_precision=PRECISION, out_dtype=tl.float32)
    at = out + token[:, None] * rank + r[None, :]
    tl.store(at, total, mask=(token < last)[:, None] & (r < rank)[None, :])


def factor(x: Tensor, a: Tensor, cu_seqlens: Tensor) -> Tensor:
    """float32 ``x a^T`` [T, r]."""
    samples = len(cu_seqlens) - 1
    out = x.new_zeros(len(x), len(a), dtype=torch.float32)
    if out.numel() and samples:
        x, a, cu_seqlens = rows_of_numbers(x), a.contiguous(), cu_seqlens.contiguous()
        grid, rank = (slots(len(x), samples, _TOKENS),), max(16, power_of_two(len(a)))
        launch(
            factor_kernel, grid, x, a, cu_seqlens, out, samples, len(x), x.shape[1], len(a), x.stride(0),
            TOKENS=_TOKENS, WIDTH=_WIDTH, RANK=rank, PRECISION=_precision(x.dtype), num_warps=_warps(rank),
            num_stages=2,
        )  # fmt: skip
    return out


def _warps(rank: int) -> int:
    return 4 if rank <= 32 else 8


def _precision(dtype: torch.dtype) -> str:
    """Half precision is exact in TF32, so three TF32 products lose nothing that float32 would keep."""
    return "ieee" if dtype == torch.float32 else "tf32x3"


def lora(
    x: Tensor,
    grad_out: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    names: tuple[str, str],
    scaling: float,
    magnitude: Tensor | None,
    states: tuple[State, State],
    norms: bool,
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]); the scaling goes into the inner factors."""
    a, b = lora_a.float() * scaling, lora_b.float() * scaling
    if magnitude is not None:
        b = b * magnitude.float()[:, None]
    hidden, error = factor(x, a, cu_seqlens), factor(grad_out, b.T, cu_seqlens)
    if magnitude is not None:
        grad_out = grad_out.float() * magnitude.float()
    z_a, squares_a = linear(x, error, cu_seqlens, sketch, names[0], states[0], norms)
    z_b, squares_b = linear(hidden, grad_out, cu_seqlens, sketch, names[1], states[1], norms)
    return z_a + z_b, squares_a + squares_b


def compilations() -> list[Compilation]:
    """What :func:`factor` launches for the usual ranks; the rest is listed by ``grad_sketch_linear``."""
    return [
        _compilation(dtype, rank)
        for dtype, rank in ((torch.bfloat16, 16), (torch.bfloat16, 128), (torch.float16, 16), (torch.float32, 128))
    ]


def _compilation(dtype: torch.dtype, rank: int) -> Compilation:
    constexprs = {"TOKENS": _TOKENS, "WIDTH": _WIDTH, "RANK": rank, "PRECISION": _precision(dtype)}
    signature = {"x": TYPES[dtype], "a": "*fp32", "cu_seqlens": "*i64", "out": "*fp32"}
    signature |= dict.fromkeys(("samples", "tokens", "width", "rank", "stride_x"), "i32") | dict.fromkeys(
        constexprs, "constexpr"
    )
    name = f"factor {TYPES[dtype]} r={rank}"
    return Compilation(
        name,
        factor_kernel,
        signature,
        constexprs,
        _warps(rank),
        2,
        ("x", "a", "cu_seqlens", "out", "width", "stride_x"),
    )
