"""``softmax(scale Q K^T) V`` and its gradients, with all scores in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def not_supported_reasons(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    gradient: tuple[Tensor, Tensor] | None,
) -> list[str]:
    """None: it runs everywhere."""
    return []


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
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    group = query.shape[1] // max(key.shape[1], 1)
    q, k, v = query.to(wide), key.to(wide), value.to(wide)
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.transpose(2, 3) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    if gradient is None:
        log_sums = scores.logsumexp(3)
        return _by_token(_probabilities(scores, log_sums) @ v, query.dtype), log_sums
    grad, log_sums = gradient[0].to(wide), gradient[1]
    p = _probabilities(scores, log_sums)
    slopes = grad @ v.transpose(2, 3)
    slopes = p * (slopes - (p * slopes).sum(3, keepdim=True)) * scale
    shared = [
        (rows.transpose(2, 3) @ other).unflatten(1, (key.shape[1], group)).sum(2)
        for rows, other in ((slopes, q), (p, grad))
    ]
    return tuple(_by_token(found, query.dtype) for found in (slopes @ k, *shared))


def _probabilities(scores: Tensor, log_sums: Tensor) -> Tensor:
    """Zeros where a query sees no key."""
    return (scores - log_sums.masked_fill(log_sums == -torch.inf, 0)[..., None]).exp()


def _by_token(heads: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers, a token's heads side by side in memory."""
    return heads.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)
