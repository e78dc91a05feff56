# pyright: reportGeneralTypeIssues=false
"""rademacher of ``G_b^T X_b``: whole rows of some samples' gradients in memory, multiplied by ``project``'s signs."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from adaptinf_kernels._triton import TYPES, Compilation, launch, rows_of_numbers
from adaptinf_kernels.grad_sketch_linear.triton_kernels import PLAIN, Blocks, adam_numbers, blocks, directed, product
from adaptinf_kernels.project import triton as project
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import State
from adaptinf_kernels.sketch.triton_partials import add_partials
from torch import Tensor

_ENTRIES, _HELD = 1 << 22, 1 << 26
"""Entries of a sample's gradient that are formed at once, about, and of all samples' together."""

_ROWS = 128
"""Rows come in multiples of this: of every block, and so that they begin where a Philox call does."""


@triton.jit(do_not_specialize=["tokens", "first_row", "rows", "tiles", "all_tiles", "first_tile"])
def gradient_kernel(
    x, grad_out, cu_seqlens, first, second, out, squares, tokens, d_in, d_out, stride_x, stride_g, first_row, rows,
    tiles, all_tiles, first_tile, keep1, new1, keep2, new2, eps, unbias1, unbias2,
    FORM: tl.constexpr, NORMS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """``out[sample]``: the direction of ``rows`` rows of the gradient from ``first_row`` on; program: a block."""
    program = tl.program_id(0).to(tl.int64)
    sample, tile = program // tiles, (program % tiles).to(tl.int32)
    start = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample).to(tl.int64), 0), tokens)
    stop = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample + 1).to(tl.int64), start), tokens)
    length = (stop - start).to(tl.int32)
    across = (d_in + BN - 1) // BN
    row0, column0 = first_row + tile // across * BM, tile % across * BN
    block = product(
        x + start * stride_x, grad_out + start * stride_g, row0, column0, length, d_in, d_out, stride_x, stride_g,
        BM, BN, BK, PRECISION
    )  # fmt: skip
    block = directed(
        block, row0, column0, first, second, d_in, d_out, keep1, new1, keep2, new2, eps, unbias1, unbias2, FORM, BM, BN
    )
    if FORM != "":
        block = tl.where(length > 0, block, 0.0)
    if NORMS:
        tl.store(squares + sample * all_tiles + first_tile + tile, tl.sum(block * block))
    row, column = tile // across * BM + tl.arange(0, BM), column0 + tl.arange(0, BN)
    at = out + (sample * rows + row)[:, None] * d_in + column[None, :]
    tl.store(at, block, mask=(row < rows)[:, None] & (column < d_in)[None, :])


def linear_dense(
    x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, name: str, state: State, norms: bool
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0])."""
    samples, d_in, d_out = len(cu_seqlens) - 1, x.shape[1], grad_out.shape[1]
    z = x.new_zeros(samples, sketch.k, dtype=torch.float32)
    if not (samples and d_in and d_out):
        return z, z.new_zeros(samples if norms else 0)
    x, grad_out, cu_seqlens = rows_of_numbers(x), rows_of_numbers(grad_out), cu_seqlens.contiguous()
    first, second = (None if tensor is None else tensor.contiguous() for tensor in state[1:3])
    cut = _cut((d_out, d_in), {x.dtype, grad_out.dtype}, state[0])
    most = max(1, _ENTRIES // (_ROWS * d_in)) * _ROWS
    together = max(1, _HELD // (min(most, d_out) * d_in))
    across = -(-d_in // cut.columns)
    all_tiles = -(-d_out // cut.rows) * across
    squares = x.new_empty(samples, all_tiles, 1 if norms else 0, dtype=torch.float32)
    for sample in range(0, samples, together):
        some = slice(sample, min(sample + together, samples))
        bounds = cu_seqlens[some.start : some.stop + 1]
        for row in range(0, d_out, most):
            rows = min(most, d_out - row)
            tiles = -(-rows // cut.rows) * across
            gradients = x.new_empty(some.stop - some.start, rows * d_in, dtype=torch.float32)
            launch(
                gradient_kernel, (len(gradients) * tiles,), x, grad_out, bounds, first, second, gradients,
                squares[some], len(x), d_in, d_out, x.stride(0), grad_out.stride(0), row, rows, tiles, all_tiles,
                row // cut.rows * across, *adam_numbers(state), **_constants(cut, state[0], norms),
                num_warps=cut.warps, num_stages=cut.stages,
            )  # fmt: skip
            z[some] += project.dense(gradients, sketch, name, row * d_in)
    return z, add_partials(squares)[:, 0] if norms else squares.new_empty(0)


def _cut(shape: tuple[int, int], types: set[torch.dtype], form: str) -> Blocks:
    """With fewer tokens at once than sjlt, which spilled beside a preconditioner's states on compute capability 8.0."""
    cut = blocks(PLAIN, *shape, types, form, hopper=False)
    return replace(cut, tokens=min(cut.tokens, 32))


def _constants(cut: Blocks, form: str, norms: bool) -> dict[str, str | bool | int]:
    sizes = {"BM": cut.rows, "BN": cut.columns, "BK": cut.tokens}
    return {"FORM": form, "NORMS": norms, **sizes, "PRECISION": cut.precision}


def compilations() -> list[Compilation]:
    """Wide weights and LoRA's narrow ones; ``project`` lists the signs."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    wide = (4096, 4096)
    cases = [(bf16, bf16, wide, "", False), (bf16, bf16, wide, "adam", True), (fp16, fp16, wide, "less", True)]
    cases += [(fp32, fp32, wide, "diagonal", True), (bf16, fp32, (16, 4096), "adam", True)]
    cases += [(fp32, bf16, (4096, 16), "adam", True)]
    return [_compilation(*case) for case in cases]


def _compilation(x: torch.dtype, grad_out: torch.dtype, shape: tuple[int, int], form: str, norms: bool) -> Compilation:
    cut = _cut(shape, {x, grad_out}, form)
    constexprs: dict[str, object] = dict(_constants(cut, form, norms))
    pointers = {
        "x": TYPES[x],
        "grad_out": TYPES[grad_out],
        "cu_seqlens": "*i64",
        "first": "*fp32" if form in ("less", "adam") else None,
        "second": "*fp32" if form else None,
        "out": "*fp32",
        "squares": "*fp32",
    }
    constexprs |= {name: None for name, kind in pointers.items() if kind is None}
    kinds = {name: kind for name, kind in pointers.items() if kind}
    kinds |= dict.fromkeys(("tokens", "d_in", "d_out", "stride_x", "stride_g", "first_row", "rows"), "i32")
    kinds |= dict.fromkeys(("tiles", "all_tiles", "first_tile"), "i32")
    kinds |= dict.fromkeys(("keep1", "new1", "keep2", "new2", "eps", "unbias1", "unbias2"), "fp32")
    kinds |= dict.fromkeys(constexprs, "constexpr")
    divisible = (*(name for name, kind in pointers.items() if kind), "d_in", "d_out", "stride_x", "stride_g")
    return Compilation(
        f"gradient {TYPES[x]} {TYPES[grad_out]} {shape[0]}x{shape[1]} {form}{' norms' if norms else ''}",
        gradient_kernel,
        {name: kinds[name] for name in gradient_kernel.arg_names},
        constexprs,
        cut.warps,
        cut.stages,
        tuple(name for name in divisible if name != "cu_seqlens"),
    )
