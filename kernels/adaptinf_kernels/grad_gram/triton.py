"""Inner products of per-sample gradients on the GPU: a tile of 64 x 64 pairs of tokens a program, then their sums."""

from __future__ import annotations

import torch
from adaptinf_kernels import _triton
from torch import Tensor

_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def not_supported_reasons(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    other_x: Tensor | None,
    other_grad_out: Tensor | None,
    other_cu_seqlens: Tensor | None,
) -> list[str]:
    """Where Triton does not run, and float64."""
    return _triton.reasons_against(x, grad_out)


def run(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    other_x: Tensor | None,
    other_grad_out: Tensor | None,
    other_cu_seqlens: Tensor | None,
) -> Tensor:
    from adaptinf_kernels.grad_gram import triton_kernels as kernels

    other_samples = len(cu_seqlens if other_cu_seqlens is None else other_cu_seqlens) - 1
    out = torch.empty(len(cu_seqlens) - 1, other_samples, dtype=torch.float32, device=x.device)
    if out.numel() == 0:
        return out
    x, grad_out = _aligned(x), _aligned(grad_out)
    tiles, bounds = _tiles(cu_seqlens, len(x), kernels.BLOCK)
    y, h, other_tiles, other_bounds = x, grad_out, tiles, bounds
    if other_x is not None and other_grad_out is not None and other_cu_seqlens is not None:
        y, h = _aligned(other_x), _aligned(other_grad_out)
        other_tiles, other_bounds = _tiles(other_cu_seqlens, len(y), kernels.BLOCK)
    partial = torch.empty(len(tiles), len(other_tiles), dtype=torch.float32, device=x.device)
    names = _NAMES[x.dtype], _NAMES[grad_out.dtype]
    _triton.launch(
        kernels.gram_tiles, (partial.numel(),), x, grad_out, tiles, y, h, other_tiles, partial,
        x.stride(0), grad_out.stride(0), y.stride(0), h.stride(0), x.shape[1], grad_out.shape[1], len(other_tiles),
        SAME=other_x is None, BLOCK=kernels.BLOCK, STEP=min(kernels.STEP[name] for name in names),
        X_PRECISION=kernels.PRECISION[names[0]], G_PRECISION=kernels.PRECISION[names[1]],
        num_warps=max(kernels.WARPS[name] for name in names), num_stages=kernels.STAGES,
    )  # fmt: skip
    _triton.launch(
        kernels.gram_sums, (out.numel(),), partial, bounds, other_bounds, out, len(other_tiles), out.shape[1],
        BLOCK=kernels.SUM_BLOCK, num_warps=1, num_stages=1,
    )  # fmt: skip
    return out


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy widened by zeros, with rows that begin at multiples of 16 entries and are as long."""
    width = tensor.shape[1] + -tensor.shape[1] % 16
    starts = tensor.stride(0) % 16 == 0 and tensor.data_ptr() % 16 == 0
    if width == tensor.shape[1] and tensor.stride(1) == 1 and starts:
        return tensor
    wide = tensor.new_zeros(len(tensor), width)
    wide[:, : tensor.shape[1]] = tensor
    return wide


def _tiles(cu_seqlens: Tensor, tokens: int, block: int) -> tuple[Tensor, Tensor]:
    """(first and last token [N, 2], tile bounds per sample [B + 1]) in int64, made without waiting for the device.

    N = T div block + B is enough for every B segments of T tokens; tiles of no sample are empty.
    """
    bounds = cu_seqlens.long().clamp(0, tokens).cummax(0).values
    ends = ((bounds.diff() + block - 1) // block).cumsum(0)
    tile_bounds = torch.cat([ends.new_zeros(1), ends])
    tile = torch.arange(tokens // block + len(ends), device=cu_seqlens.device)
    sample = torch.searchsorted(ends, tile, right=True).clamp(max=len(ends) - 1)
    first = bounds[sample] + (tile - tile_bounds[sample]) * block
    last = torch.minimum(first + block, bounds[1:][sample])
    return torch.stack([first, last], dim=1), tile_bounds
