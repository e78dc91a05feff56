"""CountSketches and Walsh-Hadamard transforms of rows: the part of xorts that the references share."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def count_sketch(values: Tensor, codes: Tensor, k: int) -> Tensor:
    """[T, d] -> [T, k]; among k consecutive ids no two share a bucket, so plain indexing adds them all."""
    sketch = torch.zeros(len(values), k, dtype=values.dtype, device=values.device)
    signed = values * (1 - 2 * (codes >= k)).to(values.dtype)
    for first in range(0, len(codes), k):
        sketch[:, codes[first : first + k] & (k - 1)] += signed[:, first : first + k]
    return sketch


def walsh_hadamard(rows: Tensor) -> Tensor:
    """``rows @ H_k`` with the symmetric +-1 Hadamard matrix of natural order; k is a power of two.

    H_k is the Kronecker product of Hadamard matrices of at most 64 rows, each applied as a matrix product.
    """
    k = rows.shape[1]
    side = min(64, k)
    rows = (rows.reshape(-1, side) @ _hadamard(side).to(rows)).reshape(-1, k)
    done = side
    while done < k:
        side = min(64, k // done)
        rows = torch.matmul(_hadamard(side).to(rows), rows.reshape(-1, side, done)).reshape(-1, k)
        done *= side
    return rows


@functools.cache
def _hadamard(side: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < side:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
