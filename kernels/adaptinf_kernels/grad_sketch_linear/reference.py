"""Sketches of ``G_b^T X_b``, one sample at a time.

sjlt and rademacher form the gradient in blocks; xorts and kron never do.
"""

from __future__ import annotations

import functools

import torch
from adaptinf_kernels.sketch.columns import Columns, accumulator, blocks, finish, working_dtype
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import State, direction
from adaptinf_kernels.sketch.tables import kron_factors, xorts_codes
from adaptinf_kernels.sketch.transforms import count_sketch, walsh_hadamard
from torch import Tensor

_TOKENS = 256
"""Tokens that xorts transforms at once."""

_NORM_ENTRIES = 1 << 20
"""Entries of a gradient held at once for its norm."""


def not_supported_reasons(
    x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, name: str, state: State, norms: bool
) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(
    x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, sketch: Sketch, name: str, state: State, norms: bool
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]), both float32."""
    segments = _segments(x, grad_out, cu_seqlens)
    dtype, device = working_dtype(x), x.device
    total = accumulator(sketch, len(cu_seqlens) - 1, dtype, device)
    squares = torch.zeros(len(cu_seqlens) - 1 if norms else 0, dtype=torch.float64, device=device)
    if sketch.kind in ("sjlt", "rademacher"):
        shape = grad_out.shape[1], x.shape[1]
        for rows, columns in blocks(sketch, shape):
            block = Columns(sketch, name, shape, rows, columns, total)
            part = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            form, first, second, numbers = state
            of_part = form, None if first is None else first[part], None if second is None else second[part], numbers
            for index, x_b, g_b in segments:
                gradient = direction(g_b[:, part[0]].T @ x_b[:, part[1]], of_part)
                block.add(index, gradient.flatten())
                if norms:
                    squares[index] += gradient.double().square().sum()
        return finish(sketch, total).float(), squares.float()
    z = total[:, : sketch.k]
    for index, x_b, g_b in segments:
        z[index] = _xorts(x_b, g_b, sketch, name) if sketch.kind == "xorts" else _kron(x_b, g_b, sketch, name)
        if norms:
            squares[index] = _squared_norm(x_b, g_b)
    return z.float(), squares.float()


def _segments(x: Tensor, grad_out: Tensor, cu_seqlens: Tensor) -> list[tuple[int, Tensor, Tensor]]:
    """(index, X_b, G_b) of every segment that is not empty.

    Fresh copies, because the bits of a matrix product may depend on where its operands begin.
    """
    dtype = working_dtype(x)
    copy = functools.partial(Tensor.to, dtype=dtype, copy=True, memory_format=torch.contiguous_format)
    bounds = cu_seqlens.tolist()
    spans = [(i, bounds[i], bounds[i + 1]) for i in range(len(bounds) - 1) if bounds[i + 1] > bounds[i]]
    return [(i, copy(x[start:stop]), copy(grad_out[start:stop])) for i, start, stop in spans]


def _squared_norm(x_b: Tensor, g_b: Tensor) -> Tensor:
    rows = max(1, _NORM_ENTRIES // x_b.shape[1])
    blocks = (g_b[:, first : first + rows].T @ x_b for first in range(0, g_b.shape[1], rows))
    return sum((block.double().square().sum() for block in blocks), torch.zeros((), device=x_b.device)).double()


def _kron(x_b: Tensor, g_b: Tensor, sketch: Sketch, name: str) -> Tensor:
    p_out, p_in = kron_factors(sketch, name, (g_b.shape[1], x_b.shape[1]), x_b.device)
    return ((g_b @ p_out.to(g_b.dtype).T).T @ (x_b @ p_in.to(x_b.dtype).T)).flatten()


def _xorts(x_b: Tensor, g_b: Tensor, sketch: Sketch, name: str) -> Tensor:
    """``sum_t C_out g_t (*) C_in x_t`` with (*) the XOR convolution: a product in the Walsh-Hadamard domain."""
    k = sketch.k
    out_codes = xorts_codes(sketch, name, 0, g_b.shape[1], x_b.device)
    in_codes = xorts_codes(sketch, name, 1, x_b.shape[1], x_b.device)
    transformed = torch.zeros(1, k, dtype=x_b.dtype, device=x_b.device)
    for codes_g, codes_x in zip(out_codes, in_codes, strict=True):
        for start in range(0, len(x_b), _TOKENS):
            g = walsh_hadamard(count_sketch(g_b[start : start + _TOKENS], codes_g, k))
            transformed += (g * walsh_hadamard(count_sketch(x_b[start : start + _TOKENS], codes_x, k))).sum(0)
    return walsh_hadamard(transformed)[0] / k
