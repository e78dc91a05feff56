"""Token scores by the native module (``csrc/token_scores/``), on the CPU."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def not_supported_reasons(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool
) -> list[str]:
    """CPU tensors of at most 32 bits."""
    if hidden.device.type != "cpu":
        return [f"it serves the CPU, not {hidden.device.type}"]
    named = {"hidden": hidden, "weight": weight, "bias": bias}
    reasons = [
        f"{name} is {tensor.dtype}; it takes float32, bfloat16 and float16"
        for name, tensor in named.items()
        if tensor is not None and tensor.dtype not in _DTYPES
    ]
    return [*_native.reasons_against(hidden.device), *reasons]


def run(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Nll, entropy, el2n_sq, margin [T] and grad_hidden [T, d] (or [0, d]), all float32."""
    tokens, width = hidden.shape
    inputs = [None if x is None else _native.rows_contiguous(x.detach()) for x in (hidden, weight, bias)]
    labels = labels.contiguous()
    scores = [torch.empty(tokens) for _ in range(4)]
    grad_hidden = torch.empty(tokens if grad else 0, width)
    _native.native().token_scores(
        *(None if x is None else _native.view(x) for x in inputs),
        _native.view(labels),
        [_native.view(score) for score in scores],
        _native.view(grad_hidden) if grad else None,
        _native.threads(),
    )
    return scores[0], scores[1], scores[2], scores[3], grad_hidden
