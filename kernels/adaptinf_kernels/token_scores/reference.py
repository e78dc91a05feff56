"""Token scores, a bounded number of rows of logits at a time."""

from __future__ import annotations

import torch
from torch import Tensor

_LOGITS_BYTES = 64 << 20
"""Bytes of logits, and of a widened copy of the head, held at once."""


def not_supported_reasons(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool
) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Nll, entropy, el2n_sq, margin [T] and grad_hidden [T, d] (or [0, d]), all float32."""
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    vocabulary = hidden.shape[1] if weight is None else weight.shape[0]
    scores = torch.zeros(4, len(hidden), dtype=dtype, device=hidden.device)
    grad_hidden = hidden.new_zeros(len(hidden) if grad else 0, hidden.shape[1], dtype=torch.float32)
    rows = max(1, _LOGITS_BYTES // (vocabulary * dtype.itemsize))
    for start in range(0, len(hidden), rows):
        chunk = slice(start, start + rows)
        logits = _logits(hidden[chunk].to(dtype), weight, bias)
        scores[:, chunk], p = _score(logits, labels[chunk])
        if grad:
            counted = labels[chunk] != -100
            p[counted, labels[chunk][counted]] -= 1
            p[~counted] = 0
            grad_hidden[chunk] = p if weight is None else _times(p, weight)
    nll, entropy, el2n_sq, margin = scores.float()
    return nll.clone(), entropy.clone(), el2n_sq.clone(), margin.clone(), grad_hidden


def _score(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """([4, rows], probabilities [rows, V])."""
    counted = labels != -100
    index = labels.clamp_min(0)[:, None]
    p, log_p = logits.softmax(1), logits.log_softmax(1)
    # log_p = -inf (a masked logit) has p = 0 and adds nothing
    entropy = -(p * log_p.clamp_min(torch.finfo(p.dtype).min)).sum(1)
    log_p_label, p_label = log_p.gather(1, index)[:, 0], p.gather(1, index)[:, 0]
    # |onehot - p|^2 = (sum of the other p)^2 + sum of their squares: 1 - p_y would cancel where the answer is sure
    p.scatter_(1, index, 0)
    el2n_sq = p.sum(1).square() + torch.linalg.vecdot(p, p)
    p.scatter_(1, index, p_label[:, None])
    margin = log_p_label - log_p.scatter_(1, index, float("-inf")).max(1).values
    of_label = torch.stack([-log_p_label, el2n_sq, margin]).masked_fill_(~counted, 0)
    return torch.stack([of_label[0], entropy, of_label[1], of_label[2]]), p


def _tiles(weight: Tensor, dtype: torch.dtype) -> list[slice]:
    """The head in one piece where it has the working dtype, else in pieces whose widened copy is bounded."""
    rows = len(weight) if weight.dtype == dtype else max(1, _LOGITS_BYTES // (weight.shape[1] * dtype.itemsize))
    return [slice(start, start + rows) for start in range(0, len(weight), rows)]


def _logits(hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None:
        return hidden
    logits = torch.cat([hidden @ weight[tile].to(hidden.dtype).T for tile in _tiles(weight, hidden.dtype)], dim=1)
    return logits if bias is None else logits.add_(bias)


def _times(p: Tensor, weight: Tensor) -> Tensor:
    total = p.new_zeros(len(p), weight.shape[1])
    for tile in _tiles(weight, p.dtype):
        total += p[:, tile] @ weight[tile].to(p.dtype)
    return total
