"""``sum_{t in b, u in c} (x_t . y_u) (g_t . h_u)``, one pair of samples at a time."""

from __future__ import annotations

import functools
import itertools

import torch
from adaptinf_kernels.sketch.columns import working_dtype
from torch import Tensor

_TOKENS = 1024
"""Tokens of a sample that are multiplied at once."""


def not_supported_reasons(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    other_x: Tensor | None,
    other_grad_out: Tensor | None,
    other_cu_seqlens: Tensor | None,
) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    other_x: Tensor | None,
    other_grad_out: Tensor | None,
    other_cu_seqlens: Tensor | None,
) -> Tensor:
    """[B, C] in float32."""
    rows = columns = _samples(x, grad_out, cu_seqlens)
    if other_x is not None and other_grad_out is not None and other_cu_seqlens is not None:
        columns = _samples(other_x, other_grad_out, other_cu_seqlens)
    out = torch.zeros(len(rows), len(columns), dtype=torch.float64, device=x.device)
    for b, row in enumerate(rows):
        for c, column in enumerate(columns):
            out[b, c] = 0.5 * (_product(row, column) + _product(column, row))
    return out.float()


def _samples(x: Tensor, grad_out: Tensor, cu_seqlens: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
    """Each sample's pieces of (X, G).

    Fresh copies, because the bits of a matrix product may depend on where its operands begin.
    """
    copy = functools.partial(Tensor.to, dtype=working_dtype(x), copy=True, memory_format=torch.contiguous_format)
    bounds = cu_seqlens.clamp(0, len(x)).tolist()
    samples = []
    for start, stop in itertools.pairwise(bounds):
        pieces = [slice(first, min(first + _TOKENS, stop)) for first in range(start, stop, _TOKENS)]
        samples.append([(copy(x[piece]), copy(grad_out[piece])) for piece in pieces])
    return samples


def _product(row: list[tuple[Tensor, Tensor]], column: list[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for x, g in row:
        for y, h in column:
            total = total.to(x.device) + ((x @ y.T) * (g @ h.T)).double().sum()
    return total
