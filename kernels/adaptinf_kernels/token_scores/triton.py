"""Token scores by Triton: products on the tensor cores, a slab of the vocabulary at a time."""

from __future__ import annotations

import torch
from adaptinf_kernels import _triton
from torch import Tensor

_TOKENS = 4096
"""Tokens worked on at once: with a slab's 8192 rows of the head, 128 MB of logits."""


def not_supported_reasons(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool
) -> list[str]:
    """What all Triton kernels need, and products of one dtype."""
    reasons = _triton.reasons_against(hidden, weight, bias)
    if weight is not None and weight.dtype != hidden.dtype:
        reasons.append(f"hidden is {hidden.dtype} and weight {weight.dtype}; it multiplies equal dtypes")
    return reasons


def run(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Nll, entropy, el2n_sq, margin [T] and grad_hidden [T, d] (or [0, d]), all float32."""
    hidden, labels = _rows(hidden.detach()), labels.contiguous()
    weight = None if weight is None else _rows(weight.detach())
    bias = None if bias is None else bias.detach().contiguous()
    scores = torch.empty(4, len(hidden), device=hidden.device)
    grad_hidden = torch.empty(len(hidden) if grad else 0, hidden.shape[1], device=hidden.device)
    for start in range(0, len(hidden), _TOKENS):
        block = slice(start, start + _TOKENS)
        statistics, sums = _sweep(hidden[block], weight, labels[block], bias, grad)
        scores[:, block], peak, total, others = _scores(statistics, labels[block])
        if grad and weight is None:
            grad_hidden[block] = _logit_gradient(hidden[block], labels[block], peak, total, others)
        elif grad and weight is not None:
            scale = torch.exp(statistics[0].double() - peak) / total
            grad_hidden[block] = _hidden_gradient(sums, weight, labels[block], scale, others)
    nll, entropy, el2n_sq, margin = scores
    return nll.clone(), entropy.clone(), el2n_sq.clone(), margin.clone(), grad_hidden


def _rows(matrix: Tensor) -> Tensor:
    """The matrix, or a copy where the kernels cannot reach its rows with 32-bit offsets inside a block of 256."""
    fits = matrix.stride(1) == 1 and matrix.stride(0) < 1 << 22
    return matrix if fits or matrix.numel() == 0 else matrix.contiguous()


def _sweep(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool
) -> tuple[Tensor, Tensor]:
    """The statistics of ``online_softmax`` over the whole vocabulary, and ``sum_v e^(l_v - m) W_v`` over v != y."""
    from adaptinf_kernels.token_scores import triton_kernels as kernels

    tokens, width = hidden.shape
    vocabulary = width if weight is None else len(weight)
    slab = min(kernels.SLAB, 1 << (vocabulary - 1).bit_length())
    statistics = torch.zeros(5, tokens, device=hidden.device)
    statistics[0] = -torch.inf
    accumulates = grad and weight is not None
    scale = kernels.exponent_scale(hidden.dtype)
    logits = hidden if weight is None else torch.empty(tokens, slab, device=hidden.device)
    exponentials = hidden.new_empty(tokens if accumulates else 1, slab)
    factors = torch.empty(tokens, device=hidden.device)
    sums = torch.zeros(tokens if accumulates else 0, width, device=hidden.device)
    for first in range(0, vocabulary, slab):
        rows = min(slab, vocabulary - first)
        part = None if weight is None else weight[first : first + rows]
        if part is None:
            logits = hidden[:, first : first + rows]
        else:
            blocks = kernels.LOGITS[part.itemsize]
            _triton.launch(
                kernels.head_logits, (blocks.tiles(tokens, rows),),
                hidden, part, part if bias is None else bias[first:], logits, tokens, rows, width,
                hidden.stride(0), part.stride(0), logits.stride(0),
                M=blocks.m, N=blocks.n, K=blocks.k, HAS_BIAS=bias is not None,
                num_warps=blocks.num_warps, num_stages=blocks.num_stages,
            )  # fmt: skip
        _triton.launch(
            kernels.online_softmax, (tokens,),
            logits, labels, statistics, exponentials, factors, tokens, first, rows,
            logits.stride(0), exponentials.stride(0),
            ROWS=slab, SCALE=scale, STORE=accumulates, num_warps=kernels.SOFTMAX_WARPS,
        )  # fmt: skip
        if part is not None and grad:
            blocks = kernels.ACCUMULATE[part.itemsize]
            _triton.launch(
                kernels.accumulate, (blocks.tiles(tokens, width),),
                exponentials, part, factors, sums, tokens, rows, width,
                exponentials.stride(0), part.stride(0), sums.stride(0),
                M=blocks.m, N=blocks.n, K=blocks.k, num_warps=blocks.num_warps, num_stages=blocks.num_stages,
            )  # fmt: skip
    return statistics, sums.div_(scale)


def _scores(statistics: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """nll, entropy, el2n_sq, margin [4, T]; and float64 [T]: the highest logit, sum_v e^(l_v - it), 1 - p_y."""
    rival, total, weighted, squares, label = statistics.double()
    label = label.where(labels >= 0, -torch.inf)
    peak = torch.where(label >= rival, label, rival)
    of_rivals, of_label = torch.exp(rival - peak), torch.exp(label - peak)
    rest = torch.where(label >= rival, of_rivals * total, total - 1 + of_label)
    step = torch.where(of_rivals == 0, 0, rival - peak)
    rivals_weighted = of_rivals * (weighted + step * total)
    label_weighted = of_label * torch.where(of_label == 0, 0, label - peak)
    all_total = of_rivals * total + of_label
    others = of_rivals * total / all_total
    nll = peak - label + torch.log1p(rest)
    entropy = torch.log1p(rest) - (rivals_weighted + label_weighted) / all_total
    el2n_sq = others.square() + (of_rivals / all_total).square() * squares
    margin = label - rival + 0 * all_total  # a NaN logit beside the highest
    of_labels = torch.stack([nll, el2n_sq, margin]).masked_fill_(labels < 0, 0)
    return torch.stack([of_labels[0], entropy, of_labels[1], of_labels[2]]).float(), peak, all_total, others


def _hidden_gradient(sums: Tensor, weight: Tensor, labels: Tensor, scale: Tensor, others: Tensor) -> Tensor:
    rows = weight.index_select(0, labels.clamp_min(0)).float()
    gradient = torch.addcmul(sums.mul_(scale.float()[:, None]), rows, others.float()[:, None], value=-1)
    return gradient.masked_fill_((labels < 0)[:, None], 0)


def _logit_gradient(logits: Tensor, labels: Tensor, peak: Tensor, total: Tensor, others: Tensor) -> Tensor:
    p = torch.exp(logits.float() - peak.float()[:, None]).mul_((1 / total).float()[:, None])
    p.scatter_(1, labels.clamp_min(0)[:, None], -others.float()[:, None])
    return p.masked_fill_((labels < 0)[:, None], 0)
