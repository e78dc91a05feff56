# pyright: reportGeneralTypeIssues=false
"""Sums over every sample's tokens, the direction of a preconditioner and squared norms, in one launch.

Additions are pairwise by position, never by where numbers lie in registers: that, and with it the order of Triton's own
``tl.sum``, may depend on how a tensor is aligned in memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from adaptinf_kernels._triton import Compilation, launch
from adaptinf_kernels.grad_sketch_linear.triton_kernels import TYPES, adam_numbers, rows_of_numbers
from adaptinf_kernels.sketch.preconditioner import NONE, State
from adaptinf_kernels.sketch.triton_partials import add_partials, direction, sum_rows
from torch import Tensor

_WARPS = 4
_TOKEN_LEVELS, _COLUMN_LEVELS = 5, 6
"""Base-2 logarithms of the tokens that are taken at once and of a program's columns."""

_COLUMNS = 1 << _COLUMN_LEVELS


@triton.jit(do_not_specialize=["tokens"])
def sample_sums_kernel(
    grad_out, factor, cu_seqlens, first, second, out, squares, tokens, width, stride_g, stride_f,
    keep1, new1, keep2, new2, eps, unbias1, unbias2,
    FACTOR: tl.constexpr, FORM: tl.constexpr, NORMS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    TOKEN_LEVELS: tl.constexpr, COLUMN_LEVELS: tl.constexpr,
):  # fmt: skip
    """out[b] = direction(the sum of g, or g times factor, over sample b's tokens); program (sample, columns)."""
    sample, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample).to(tl.int64), 0), tokens)
    stop = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample + 1).to(tl.int64), start), tokens)
    token, column = start + tl.arange(0, TOKENS), piece * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    total = tl.zeros((TOKENS, COLUMNS), tl.float32)
    for done in range(start, stop, TOKENS):
        here = (done - start + token < stop)[:, None] & inside[None, :]
        row = (done - start + token)[:, None]
        term = tl.load(grad_out + row * stride_g + column[None, :], mask=here, other=0.0).to(tl.float32)
        if FACTOR:
            term *= tl.load(factor + row * stride_f + column[None, :], mask=here, other=0.0).to(tl.float32)
        total += term
    gradient = sum_rows(total, TOKEN_LEVELS, COLUMNS)
    if FORM != "":
        m = 0.0
        if FORM != "diagonal":
            m = tl.load(first + column, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(second + column, mask=inside, other=0.0).to(tl.float32)
        gradient = direction(gradient, m, v, keep1, new1, keep2, new2, eps, unbias1, unbias2, FORM)
        gradient = tl.where(inside & (stop > start), gradient, 0.0)
    tl.store(out + sample * width + column, gradient, mask=inside)
    if NORMS:
        square = sum_rows((gradient * gradient).reshape(COLUMNS, 1), COLUMN_LEVELS, 1)
        tl.store(squares + sample * tl.num_programs(1) + piece + tl.arange(0, 1), square)


def sample_sums(
    factor: Tensor | None, grad_out: Tensor, cu_seqlens: Tensor, state: State, norms: bool
) -> tuple[Tensor, Tensor]:
    """The gradients, float32 [B, d], after the preconditioner, and their squared norms, [B] or [0]."""
    samples, width = len(cu_seqlens) - 1, grad_out.shape[1]
    pieces = -(-width // _COLUMNS)
    out = grad_out.new_empty(samples, width, dtype=torch.float32)
    squares = grad_out.new_empty(samples, pieces, 1 if norms else 0, dtype=torch.float32)
    if out.numel():
        grad_out = rows_of_numbers(grad_out)
        factor = None if factor is None else rows_of_numbers(factor)
        first, second = (None if tensor is None else tensor.contiguous() for tensor in state[1:3])
        launch(
            sample_sums_kernel, (samples, pieces), grad_out, factor, cu_seqlens.contiguous(), first, second, out,
            squares, len(grad_out), width, grad_out.stride(0), 0 if factor is None else factor.stride(0),
            *adam_numbers(state), **_constants(factor is not None, state[0], norms), num_warps=_WARPS, num_stages=1,
        )  # fmt: skip
    return out, add_partials(squares)[:, 0] if norms else squares.new_empty(0)


def _constants(factor: bool, form: str, norms: bool) -> dict[str, bool | str | int]:
    levels = {"TOKEN_LEVELS": _TOKEN_LEVELS, "COLUMN_LEVELS": _COLUMN_LEVELS}
    return {"FACTOR": factor, "FORM": form, "NORMS": norms, "TOKENS": 1 << _TOKEN_LEVELS, "COLUMNS": _COLUMNS, **levels}


def compilations() -> list[Compilation]:
    """Biases and norm weights, without and with what a preconditioner adds; ``project`` lists the rest."""
    return [
        _compilation(torch.bfloat16, False, NONE[0], False),
        _compilation(torch.bfloat16, True, "adam", True),
        _compilation(torch.float16, True, "less", False),
        _compilation(torch.float32, False, "diagonal", True),
    ]


def _compilation(dtype: torch.dtype, factor: bool, form: str, norms: bool) -> Compilation:
    constexprs = dict(_constants(factor, form, norms))
    pointers = {
        "factor": TYPES[dtype] if factor else None,
        "grad_out": TYPES[dtype],
        "cu_seqlens": "*i64",
        "first": "*fp32" if form in ("less", "adam") else None,
        "second": "*fp32" if form else None,
        "out": "*fp32",
        "squares": "*fp32",
    }
    constexprs |= {name: None for name, kind in pointers.items() if kind is None}
    kinds = {name: kind for name, kind in pointers.items() if kind}
    kinds |= dict.fromkeys(("tokens", "width", "stride_f", "stride_g"), "i32")
    kinds |= dict.fromkeys(("keep1", "new1", "keep2", "new2", "eps", "unbias1", "unbias2"), "fp32")
    kinds |= dict.fromkeys(constexprs, "constexpr")
    divisible = (*(name for name, kind in pointers.items() if kind), "width", "stride_f", "stride_g")
    return Compilation(
        " ".join(["sample_sums", TYPES[dtype], *["factor"] * factor, *[form] * bool(form), *["norms"] * norms]),
        sample_sums_kernel,
        {name: kinds[name] for name in sample_sums_kernel.arg_names},
        constexprs,
        _WARPS,
        1,
        divisible,
    )
