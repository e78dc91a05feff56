"""Attention by the native module (``csrc/attention/``), on the CPU."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from torch import Tensor

CPU_LEVEL = ""
"""The instruction set that the native module uses: "portable", "avx2", "avx512", or "" for the best. Tests set it."""


def not_supported_reasons(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    gradient: tuple[Tensor, Tensor] | None,
) -> list[str]:
    """Float32 on the CPU."""
    return _native.reasons_against_float32(query)


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    gradient: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, ...]:
    """(output, log-sum-exp of the scores); with ``gradient`` (the output's, and those sums) dQ, dK, dV."""
    rows = [_native.rows_contiguous(tensor.detach()) for tensor in (query, key, value)]
    (batch, heads, tokens, _), keys = query.shape, key.shape[2]
    seen = None
    if mask is not None:
        seen = _native.rows_contiguous(mask.expand(batch, heads, tokens, keys)).view(torch.int8)
    inputs = (*map(_native.view, rows), None if seen is None else _native.view(seen), causal, scale)
    if gradient is None:
        out = torch.empty(batch, tokens, heads, value.shape[3])
        log_sums = torch.empty(batch, heads, tokens)
        _native.native().attention(
            inputs, _native.view(out), _native.view(log_sums.view(-1)), _native.threads(), CPU_LEVEL
        )
        return out.transpose(1, 2), log_sums
    grad = gradient[0].detach().transpose(1, 2).contiguous()
    found = [torch.empty_like(rows.transpose(1, 2), memory_format=torch.contiguous_format) for rows in rows]
    _native.native().attention_backward(
        inputs, _native.view(gradient[1].contiguous().view(-1)), _native.view(grad), [*map(_native.view, found)],
        _native.threads(), CPU_LEVEL,
    )  # fmt: skip
    return tuple(rows.transpose(1, 2) for rows in found)
