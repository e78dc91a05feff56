"""sjlt of ``G_b^T X_b`` in one launch: the weight gradient's matrix product, its tiles sketched where they arise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from adaptinf_kernels._triton import TYPES, Compilation, is_hopper, launch, rows_of_numbers
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import NONE, State
from adaptinf_kernels.sketch.triton_partials import add_partials, direction
from adaptinf_kernels.sketch.triton_philox import key_argument
from adaptinf_kernels.sketch.triton_sjlt import block_place, fold
from torch import Tensor

_GROUPS = 128
"""Programs that share the tiles of one sample: each leaves k numbers to be added up."""

PLAIN = Sketch("sjlt", 64)
"""For blocks whose sketch does not matter: its tiles are small and ask for nothing."""


@triton.jit
def product(
    x, grad_out, row0, column0, length, d_in, d_out, stride_x, stride_g,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """float32 [BM, BN] of a sample's ``G^T X`` from (row0, column0) on; the pointers are at its first token."""
    token = tl.arange(0, BK)
    row, column = row0 + tl.arange(0, BM), column0 + tl.arange(0, BN)
    g_at = grad_out + token[None, :].to(tl.int64) * stride_g + row[:, None]
    x_at = x + token[:, None].to(tl.int64) * stride_x + column[None, :]
    block = tl.zeros((BM, BN), tl.float32)
    for done in range(0, length, BK):
        here = token < length - done
        g_t = tl.load(g_at, mask=here[None, :] & (row < d_out)[:, None], other=0.0)
        x_t = tl.load(x_at, mask=here[:, None] & (column < d_in)[None, :], other=0.0)
        if x_t.dtype != g_t.dtype:
            g_t, x_t = g_t.to(tl.float32), x_t.to(tl.float32)
        block = tl.dot(g_t, x_t, block, input_precision=PRECISION, out_dtype=tl.float32)
        g_at += BK * stride_g
        x_at += BK * stride_x
    return block


@triton.jit
def directed(
    block, row0, column0, first, second, d_in, d_out, keep1, new1, keep2, new2, eps, unbias1, unbias2,
    FORM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The direction of a block of the gradient; entries outside the weight have none."""
    row, column = tl.arange(0, BM)[:, None], tl.arange(0, BN)[None, :]
    if FORM != "":
        inside = (row0 + row < d_out) & (column0 + column < d_in)
        m = 0.0
        if FORM != "diagonal":
            corner = first + row0.to(tl.int64) * d_in + column0
            m = tl.load(corner + row * d_in + column, mask=inside, other=0.0).to(tl.float32)
        corner = second + row0.to(tl.int64) * d_in + column0
        v = tl.load(corner + row * d_in + column, mask=inside, other=0.0).to(tl.float32)
        block = direction(block, m, v, keep1, new1, keep2, new2, eps, unbias1, unbias2, FORM)
        block = tl.where(inside, block, 0.0)
    return block


@triton.jit
def absorb(
    z,
    total,
    block,
    row0,
    column0,
    first,
    second,
    d_in,
    d_out,
    key,
    keep1,
    new1,
    keep2,
    new2,
    eps,
    unbias1,
    unbias2,
    FORM: tl.constexpr,
    NORMS: tl.constexpr,
    SLICES: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """``z`` and ``total`` with a finished block of the gradient added: its direction, its square, its sketch."""
    block = directed(
        block, row0, column0, first, second, d_in, d_out, keep1, new1, keep2, new2, eps, unbias1, unbias2, FORM, BM, BN
    )
    if NORMS:
        total += tl.sum(block * block)
    for t in range(SLICES):
        folded = fold(block, key, row0, column0, t, P, Q, BM, BN)
        z += tl.where((tl.arange(0, SLICES) == t)[:, None], folded[None, :], 0.0)
    return z, total


@triton.jit(do_not_specialize=["tokens", "key", "groups", "tiles", "tiles_of_group"])
def linear_sjlt_kernel(
    x,
    grad_out,
    cu_seqlens,
    first,
    second,
    partials,
    squares,
    tokens,
    d_in,
    d_out,
    stride_x,
    stride_g,
    key,
    groups,
    tiles,
    tiles_of_group,
    keep1,
    new1,
    keep2,
    new2,
    eps,
    unbias1,
    unbias2,
    FORM: tl.constexpr,
    NORMS: tl.constexpr,
    SLICES: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PIECES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (sample, group): the blocks [BM, BN] of the weight in that group, each over all tokens, then folded."""
    program = tl.program_id(0).to(tl.int64)
    sample, group = program // groups, (program % groups).to(tl.int32)
    start = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample).to(tl.int64), 0), tokens)
    stop = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample + 1).to(tl.int64), start), tokens)
    length = (stop - start).to(tl.int32)
    x += start * stride_x
    grad_out += start * stride_g

    z = tl.zeros((SLICES, P * Q), tl.float32)
    total = 0.0
    across = (d_in + BN - 1) // BN
    last = tl.where(length > 0, tl.minimum((group + 1) * tiles_of_group, tiles), 0)
    for tile in range(group * tiles_of_group, last):
        row0, column0 = tile // across * BM, tile % across * BN
        block = product(x, grad_out, row0, column0, length, d_in, d_out, stride_x, stride_g, BM, BN, BK, PRECISION)
        if PIECES == 1:
            z, total = absorb(
                z, total, block, row0, column0, first, second, d_in, d_out, key, keep1, new1, keep2, new2, eps, unbias1,
                unbias2, FORM, NORMS, SLICES, P, Q, BM, BN
            )  # fmt: skip
        else:  # by halves, which need half the registers
            left, right = block.reshape(BM, 2, BN // 2).permute(0, 2, 1).split()
            z, total = absorb(
                z, total, left, row0, column0, first, second, d_in, d_out, key, keep1, new1, keep2, new2, eps, unbias1,
                unbias2, FORM, NORMS, SLICES, P, Q, BM, BN // 2
            )  # fmt: skip
            z, total = absorb(
                z, total, right, row0, column0 + BN // 2, first, second, d_in, d_out, key, keep1, new1, keep2, new2,
                eps, unbias1, unbias2, FORM, NORMS, SLICES, P, Q, BM, BN // 2
            )  # fmt: skip

    z_row, z_column = block_place(tl.arange(0, P * Q), Q)
    place = tl.arange(0, SLICES)[:, None] * (P * Q) + (z_row * Q + z_column)[None, :]
    tl.store(partials + program * (SLICES * P * Q) + place, z)
    if NORMS:
        tl.store(squares + program, total)


@dataclass(frozen=True)
class Blocks:
    """How a launch cuts a weight: the block of a program, the tokens of a step, warps and stages of the pipeline."""

    rows: int
    columns: int
    tokens: int
    pieces: int
    precision: str
    warps: int
    stages: int


def blocks(sketch: Sketch, d_out: int, d_in: int, types: set[torch.dtype], form: str, hopper: bool) -> Blocks:
    """Blocks of whole tiles, as large as registers allow: half of them go to a preconditioner's states, or to slices.

    float32 products are exact to float32 (``ieee``). Half precision against float32, which is how LoRA's inner factors
    come, takes three TF32 products: the half is exact in TF32, the other number in two of its terms.
    """
    p, q = sketch.tile
    tokens, precision, widest, stages = 64, "tf32", 128, 3
    if types == {torch.float32}:
        tokens, precision, stages = 16, "ieee", 2
    elif len(types) == 2:
        tokens, precision = 32, "tf32x3"
    elif hopper and sketch.nonzeros == 1 and sketch.k >= 256:
        widest = 256
    rows = max(p, min(64 if form or sketch.nonzeros > 1 else 128, power_of_two(d_out)), 16)
    columns = max(q, min(widest, power_of_two(d_in)), 32)
    pieces = 2 if columns // 2 >= max(q, 32) else 1
    return Blocks(rows, columns, tokens, pieces, precision, 8 if rows * columns >= 8192 else 4, stages)


def power_of_two(number: int) -> int:
    """The first that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def adam_numbers(state: State) -> tuple[float, ...]:
    """``keep1, new1, keep2, new2, eps, unbias1, unbias2`` of the kernels."""
    beta1, beta2, eps, step = state[3]
    unbias = (1 - beta1**step, 1 - beta2**step) if state[0] == "adam" else (1.0, 1.0)
    return beta1, 1 - beta1, beta2, 1 - beta2, eps, *unbias


def linear_sjlt(
    x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, key: int, state: State, norms: bool
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0])."""
    samples, (d_out, d_in), (p, q) = len(cu_seqlens) - 1, (grad_out.shape[1], x.shape[1]), sketch.tile
    cut = blocks(sketch, d_out, d_in, {x.dtype, grad_out.dtype}, state[0], is_hopper(x.device))
    down, across = -(-d_out // cut.rows), -(-d_in // cut.columns)
    tiles = down * across
    tiles_of_group = -(-tiles // _GROUPS)
    groups = -(-tiles // tiles_of_group) if tiles else 0
    partials = x.new_empty(samples, groups, sketch.k, dtype=torch.float32)
    squares = x.new_empty(samples, groups, 1 if norms else 0, dtype=torch.float32)
    if samples and groups:
        x, grad_out = rows_of_numbers(x), rows_of_numbers(grad_out)
        first, second = (None if tensor is None else tensor.contiguous() for tensor in state[1:3])
        launch(
            linear_sjlt_kernel, (samples * groups,), x, grad_out, cu_seqlens.contiguous(), first, second, partials,
            squares, len(x), d_in, d_out, x.stride(0), grad_out.stride(0), key_argument(key), groups, tiles,
            tiles_of_group, *adam_numbers(state), FORM=state[0], NORMS=norms, SLICES=sketch.nonzeros, P=p, Q=q,
            BM=cut.rows, BN=cut.columns, BK=cut.tokens, PIECES=cut.pieces, PRECISION=cut.precision,
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
    return add_partials(partials), add_partials(squares)[:, 0] if norms else squares.new_empty(0)


def squared_norms(x: Tensor, grad_out: Tensor, cu_seqlens: Tensor) -> Tensor:
    """float32 [B] of the gradients themselves, whose smallest sketch is made beside them and dropped."""
    return linear_sjlt(x, grad_out, cu_seqlens, PLAIN, 0, NONE, norms=True)[1]


def compilations() -> list[Compilation]:
    """For wide weights and LoRA's narrow ones: every block and preconditioner."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    wide, a, b, default = (4096, 4096), (16, 4096), (4096, 16), Sketch("sjlt", 4096)
    cases = [(dtype, dtype, default, wide, "", False) for dtype in (bf16, fp16, fp32)]
    others = Sketch("sjlt", 64), Sketch("sjlt", 512), Sketch("sjlt", 8192), Sketch("sjlt", 8192, nonzeros=4)
    cases += [(bf16, bf16, sketch, wide, "", True) for sketch in others]
    cases += [(bf16, bf16, default, wide, form, True) for form in ("diagonal", "less", "adam")]
    cases += [(bf16, bf16, Sketch("sjlt", 8192), wide, "adam", True), (fp32, fp32, default, wide, "adam", True)]
    cases += [(bf16, fp32, default, a, form, True) for form in ("", "adam")]
    cases += [(fp32, bf16, default, b, form, True) for form in ("", "adam")]
    return [_compilation(*case, hopper) for case in cases for hopper in (False, True)]


def _compilation(
    x: torch.dtype, grad_out: torch.dtype, sketch: Sketch, shape: tuple[int, int], form: str, norms: bool, hopper: bool
) -> Compilation:
    cut, (p, q) = blocks(sketch, *shape, {x, grad_out}, form, hopper), sketch.tile
    constexprs = {
        "FORM": form,
        "NORMS": norms,
        "SLICES": sketch.nonzeros,
        "P": p,
        "Q": q,
        "BM": cut.rows,
        "BN": cut.columns,
        "BK": cut.tokens,
        "PIECES": cut.pieces,
        "PRECISION": cut.precision,
    }
    pointers = {
        "x": TYPES[x],
        "grad_out": TYPES[grad_out],
        "cu_seqlens": "*i64",
        "first": "*fp32" if form in ("less", "adam") else None,
        "second": "*fp32" if form else None,
        "partials": "*fp32",
        "squares": "*fp32",
    }
    constexprs |= {name: None for name, kind in pointers.items() if kind is None}
    numbers = dict.fromkeys(("tokens", "d_in", "d_out", "stride_x", "stride_g"), "i32")
    numbers |= {"key": "i64", "groups": "i32", "tiles": "i32", "tiles_of_group": "i32"}
    numbers |= dict.fromkeys(("keep1", "new1", "keep2", "new2", "eps", "unbias1", "unbias2"), "fp32")
    kinds = {name: kind for name, kind in pointers.items() if kind} | numbers | dict.fromkeys(constexprs, "constexpr")
    divisible = (*(name for name, kind in pointers.items() if kind), "d_in", "d_out", "stride_x", "stride_g")
    return Compilation(
        f"linear_sjlt {TYPES[x]} {TYPES[grad_out]} {shape[0]}x{shape[1]} k={sketch.k}/{sketch.nonzeros} {form}"
        f"{' norms' if norms else ''}{' Hopper' if hopper else ''}",
        linear_sjlt_kernel,
        {name: kinds[name] for name in linear_sjlt_kernel.arg_names},
        constexprs,
        cut.warps,
        cut.stages,
        divisible,
        architectures=(90,) if hopper else (80, 100),
    )
