"""Sketches of gradients on the GPU: sjlt and rademacher by ``triton_kernels.py``, xorts as rows of an embedding."""

from __future__ import annotations

import torch
from adaptinf_kernels import _triton
from adaptinf_kernels.sketch.definition import Sketch, philox_key
from adaptinf_kernels.sketch.triton_limits import row_limits
from torch import Tensor

_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}

_CHUNKS = 512
"""How many chunks the entries are cut into, about, where there are so many."""

_LEAST_ADDITIONS, _MOST_ADDITIONS = 16, 64
"""Terms of a number's sum within a chunk of sjlt: enough to be worth writing, few enough to lose no bits."""


def not_supported_reasons(gradients: Tensor, shape: tuple[int, int], sketch: Sketch, name: str) -> list[str]:
    """Where Triton does not run, float64, kron, and slices of sjlt that no program can hold."""
    return [*_triton.reasons_against(gradients), *row_limits(sketch)]


def run(gradients: Tensor, shape: tuple[int, int], sketch: Sketch, name: str) -> Tensor:
    """[B, D] -> float32 [B, k] with entries of +-1."""
    if gradients.numel() == 0:
        return torch.zeros(len(gradients), sketch.k, dtype=torch.float32, device=gradients.device)
    if gradients.shape[1] > 1 and gradients.stride(1) != 1:
        gradients = gradients.contiguous()
    if sketch.kind == "rademacher":
        return dense(gradients, sketch, name, 0)
    return (_sjlt if sketch.kind == "sjlt" else _xorts)(gradients, shape, sketch, name)


def _sjlt(gradients: Tensor, shape: tuple[int, int], sketch: Sketch, name: str) -> Tensor:
    from adaptinf_kernels.project import triton_kernels as kernels
    from adaptinf_kernels.sketch.triton_philox import key_argument

    p, q = sketch.tile
    row_runs = -(-shape[1] // q)
    runs = shape[0] * row_runs
    additions = min(max(-(-runs // (p * _CHUNKS)), _LEAST_ADDITIONS), _MOST_ADDITIONS)
    steps, chunk_steps = -(-runs // kernels.RUNS), max(1, additions * p // kernels.RUNS)
    chunks = -(-steps // chunk_steps)
    samples = kernels.TILE_WIDTH // q
    partial = _partial(chunks, gradients, sketch)
    _triton.launch(
        kernels.sjlt, (chunks, -(-len(gradients) // samples), sketch.nonzeros), gradients, partial,
        gradients.stride(0), len(gradients), shape[1], runs, row_runs, sketch.k,
        key_argument(philox_key(sketch.seed, name)), steps, chunk_steps,
        P=p, Q=q, RUNS=kernels.RUNS, ROWS=kernels.TILE_ROWS, SAMPLES=samples, CUT=gradients.dtype == torch.float32,
        num_warps=kernels.WARPS, num_stages=1,
    )  # fmt: skip
    return _sum(partial)


def _xorts(gradients: Tensor, shape: tuple[int, int], sketch: Sketch, name: str) -> Tensor:
    """The weight's rows are a sample's tokens, and their numbers the ids."""
    from adaptinf_kernels.grad_sketch_embedding.triton_rows import rows_xorts

    samples, (d_out, d_in), device = len(gradients), shape, gradients.device
    ids, bounds = torch.arange(d_out, device=device).repeat(samples), torch.arange(samples + 1, device=device) * d_out
    return rows_xorts(ids, gradients.reshape(samples * d_out, d_in), bounds, sketch, name, d_out, -1)


def dense(gradients: Tensor, sketch: Sketch, name: str, first: int) -> Tensor:
    """Rademacher of [B, n] that are entries ``first`` on, a multiple of 128, of a parameter; float32 [B, k]."""
    from adaptinf_kernels.project import triton_kernels as kernels
    from adaptinf_kernels.sketch.triton_philox import key_argument

    steps = -(-gradients.shape[1] // kernels.ENTRIES)
    row_blocks = -(-sketch.k // kernels.DENSE_ROWS)
    chunk_steps = max(-(-steps * row_blocks // _CHUNKS), kernels.INNER)
    chunks = -(-steps // chunk_steps)
    samples = kernels.DENSE_SAMPLES[_NAMES[gradients.dtype]]
    partial = _partial(chunks, gradients, sketch)
    _triton.launch(
        kernels.dense, (chunks, row_blocks, -(-len(gradients) // samples)), gradients, partial,
        gradients.stride(0), len(gradients), gradients.shape[1], sketch.k,
        key_argument(philox_key(sketch.seed, name)), first // kernels.ENTRIES, steps, chunk_steps,
        ROWS=kernels.DENSE_ROWS, ENTRIES=kernels.ENTRIES, SAMPLES=samples, INNER=kernels.INNER,
        CUT=gradients.dtype == torch.float32, num_warps=kernels.WARPS, num_stages=1,
    )  # fmt: skip
    return _sum(partial)


def _partial(chunks: int, gradients: Tensor, sketch: Sketch) -> Tensor:
    return torch.empty(chunks, len(gradients), sketch.k, dtype=torch.float32, device=gradients.device)


def _sum(partial: Tensor) -> Tensor:
    """Over chunks, in an order that no shape but the number of chunks decides."""
    from adaptinf_kernels.project import triton_kernels as kernels

    if len(partial) == 1:
        return partial[0]
    out = torch.empty_like(partial[0])
    _triton.launch(
        kernels.sum_chunks, (-(-out.numel() // kernels.SUM_ENTRIES),), partial, out, out.numel(), len(partial),
        CHUNKS=kernels.SUM_CHUNKS, ENTRIES=kernels.SUM_ENTRIES, num_warps=kernels.SUM_WARPS, num_stages=1,
    )  # fmt: skip
    return out
