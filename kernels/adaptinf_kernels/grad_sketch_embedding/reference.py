"""The rows of the table that a sample touches, summed, then sketched one by one."""

from __future__ import annotations

import torch
from adaptinf_kernels.sketch.columns import Columns, accumulator, finish, working_dtype
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.tables import kron_factors
from torch import Tensor


def not_supported_reasons(
    ids: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    vocabulary: int,
    padding_idx: int,
    norms: bool,
) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(
    ids: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    vocabulary: int,
    padding_idx: int,
    norms: bool,
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]), both float32."""
    dtype, device, width = working_dtype(grad_out), grad_out.device, grad_out.shape[1]
    samples = len(cu_seqlens) - 1
    total = accumulator(sketch, samples, dtype, device)
    squares = torch.zeros(samples if norms else 0, dtype=torch.float64, device=device)
    bounds = cu_seqlens.tolist()
    for index in range(samples):
        tokens = slice(bounds[index], bounds[index + 1])
        rows, sums = _row_sums(ids[tokens], grad_out[tokens].to(dtype), padding_idx)
        if norms:
            squares[index] = sums.double().square().sum()
        if sketch.kind == "kron":
            p_out, p_in = (factor.to(dtype) for factor in kron_factors(sketch, name, (vocabulary, width), device))
            total[index] = (p_out[:, rows] @ sums @ p_in.T).flatten()
            continue
        for row, values in zip(rows.tolist(), sums, strict=True):
            shape = (vocabulary, width)
            Columns(sketch, name, shape, range(row, row + 1), range(width), total).add(index, values)
    return finish(sketch, total).float(), squares.float()


def _row_sums(ids: Tensor, grad_out: Tensor, padding_idx: int) -> tuple[Tensor, Tensor]:
    """The ids that occur, rising, without the padding, and the sum of the gradients of each, in the tokens' order."""
    rows, inverse = ids.long().unique(return_inverse=True)
    sums = torch.zeros(len(rows), grad_out.shape[1], dtype=grad_out.dtype, device=grad_out.device)
    sums.index_put_((inverse,), grad_out, accumulate=True)
    kept = rows != padding_idx
    return rows[kept], sums[kept]
