# pyright: reportGeneralTypeIssues=false
"""sjlt of an embedding table's gradient, token by token: no table's gradient, no sorting, no atomic addition.

A token's gradient is one row of the table's gradient, at its id. A program keeps a slice of the sketch, takes a column
of tiles of the table and adds to the slice, for each of the sample's tokens, its run of that column: turned as it is
loaded, then multiplied by a matrix with a single 1 a token, which brings it to its row of the slice. Tensor cores
truncate as they add, so each product starts from nothing and its sums are added in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from adaptinf_kernels._triton import TYPES, Compilation, launch, rows_of_numbers
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.triton_partials import add_partials
from adaptinf_kernels.sketch.triton_philox import key_argument
from adaptinf_kernels.sketch.triton_runs import flipped, multiply, turned_runs
from torch import Tensor

_ROWS, _WARPS = 64, 8
"""Rows of a product: a slice has at most so many."""

_GROUPS = 32
"""Programs that share the columns of a table for one sample: each leaves k numbers to be added up."""


@triton.jit(do_not_specialize=["tokens", "padding", "key", "groups", "tiles", "tiles_of_group"])
def embedding_sjlt_kernel(
    grad_out, ids, cu_seqlens, partials, tokens, width, stride, padding, key, groups, tiles, tiles_of_group, k,
    P: tl.constexpr, Q: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """partials[sample, group, slice t]; program (sample and group, t) takes the group's columns of tiles."""
    program, t = tl.program_id(0).to(tl.int64), tl.program_id(1)
    sample, group = program // groups, (program % groups).to(tl.int32)
    start = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample).to(tl.int64), 0), tokens)
    stop = tl.minimum(tl.maximum(tl.load(cu_seqlens + sample + 1).to(tl.int64), start), tokens)
    z = tl.zeros((ROWS, Q), tl.float32)
    for tile in range(group * tiles_of_group, tl.minimum((group + 1) * tiles_of_group, tiles)):
        for first in range(start, stop, TOKENS):
            token = first + tl.arange(0, TOKENS).to(tl.int64)
            row = tl.load(ids + token, mask=token < stop, other=0)
            live = (token < stop) & (row != padding)
            row = row.to(tl.int32)
            at, column, flip = turned_runs(key, row, row * 0 + tile, t, P, Q)
            values = tl.load(
                grad_out + token[:, None] * stride + (tile * Q + column),
                mask=live[:, None] & (tile * Q + column < width),
                other=0.0,
            )
            here = at[None, :] == tl.arange(0, ROWS)[:, None]
            z += multiply(here, flipped(values, flip), tl.zeros((ROWS, Q), tl.float32), CUT)
    place = tl.arange(0, ROWS)[:, None] * Q + tl.arange(0, Q)[None, :]
    tl.store(partials + program * k + t * P * Q + place, z, mask=place < P * Q)


def embedding_sjlt(ids: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, key: int, padding: int) -> Tensor:
    """float32 [B, k] with entries of +-1; ``padding`` is an id, or -1."""
    samples, width, (p, q) = len(cu_seqlens) - 1, grad_out.shape[1], sketch.tile
    tiles = -(-width // q)
    tiles_of_group = -(-tiles // _GROUPS)
    groups = -(-tiles // tiles_of_group) if tiles else 0
    partials = grad_out.new_empty(samples, groups, sketch.k, dtype=torch.float32)
    if samples and groups:
        grad_out = rows_of_numbers(grad_out)
        launch(
            embedding_sjlt_kernel, (samples * groups, sketch.nonzeros), grad_out, ids.contiguous(),
            cu_seqlens.contiguous(), partials, len(ids), width, grad_out.stride(0), padding, key_argument(key), groups,
            tiles, tiles_of_group, sketch.k, P=p, Q=q, TOKENS=_tokens(q), ROWS=_ROWS,
            CUT=grad_out.dtype == torch.float32, num_warps=_WARPS, num_stages=1,
        )  # fmt: skip
    return add_partials(partials)


def _tokens(q: int) -> int:
    """Those of a product: as many as leave registers to a slice of such rows."""
    return 64 if q <= 64 else 16


def compilations() -> list[Compilation]:
    """Slices of 512, 4096 and 8192 rows."""
    cases = [(torch.bfloat16, (16, 32)), (torch.bfloat16, (64, 64)), (torch.bfloat16, (64, 128))]
    cases += [(torch.float16, (64, 64)), (torch.float32, (64, 64)), (torch.float32, (64, 128))]
    return [_compilation(*case) for case in cases]


def _compilation(dtype: torch.dtype, tile: tuple[int, int]) -> Compilation:
    p, q = tile
    constexprs = {"P": p, "Q": q, "TOKENS": _tokens(q), "ROWS": _ROWS, "CUT": dtype == torch.float32}
    kinds = {"grad_out": TYPES[dtype], "ids": "*i64", "cu_seqlens": "*i64", "partials": "*fp32"}
    kinds |= dict.fromkeys(("tokens", "width", "stride", "padding", "groups", "tiles", "tiles_of_group", "k"), "i32")
    kinds |= {"key": "i64"} | dict.fromkeys(constexprs, "constexpr")
    return Compilation(
        f"embedding_sjlt {TYPES[dtype]} {p} x {q}",
        embedding_sjlt_kernel,
        {name: kinds[name] for name in embedding_sjlt_kernel.arg_names},
        constexprs,
        _WARPS,
        1,
        ("grad_out", "ids", "cu_seqlens", "partials", "width", "stride", "k"),
    )
