"""Scores of samples from those of their tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from adaptinf_kernels._arrays import Array, as_tensor
from adaptinf_kernels.sketch.samples import check_bounds, check_cu_seqlens
from adaptinf_kernels.token_scores.api import TokenScores
from torch import Tensor


class SampleScores(NamedTuple):
    """Means over a sample's tokens, float64 [B], and their number, int64 [B]; see :func:`sample_scores`."""

    nll: Tensor
    mean_exp_nll: Tensor
    entropy: Tensor
    el2n: Tensor
    margin: Tensor
    tokens: Tensor


def sample_scores(scores: TokenScores, cu_seqlens: Array, *, labels: Array | None = None) -> SampleScores:
    """Means of ``nll``, ``exp(nll)``, ``entropy``, ``sqrt(el2n_sq)`` and ``margin`` over every sample's tokens.

    Sums are float64 and run in the tokens' order, so a sample's numbers do not depend on the rest of the batch. A
    sample without tokens that count has NaN. ``exp(nll)`` is inf above an nll of 709.

    Args:
        scores: of T tokens, the samples' one after the other; ``grad_hidden`` is not read.
        cu_seqlens: int32 or int64 [B + 1]; sample b has tokens ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]``.
        labels: int64 [T]; tokens with -100 do not count. None: all do.

    Raises:
        ValueError: segments or labels do not fit.
        TypeError: a dtype does not fit.
    """
    cu_seqlens = as_tensor("cu_seqlens", cu_seqlens)
    labels = None if labels is None else as_tensor("labels", labels)
    nll, entropy, el2n_sq, margin = (column.double() for column in scores[:4])
    check_cu_seqlens(cu_seqlens, nll.device)
    check_bounds(cu_seqlens, len(nll))
    if labels is not None and labels.shape != nll.shape:
        raise ValueError(f"labels must be [T={len(nll)}], not {list(labels.shape)}")
    counted = torch.ones_like(nll, dtype=torch.bool) if labels is None else labels != -100
    columns = [nll, nll.exp(), entropy, el2n_sq.sqrt(), margin]
    tokens = segment_sum(counted, cu_seqlens)
    means = segment_sum(torch.stack(columns, 1).masked_fill_(~counted[:, None], 0), cu_seqlens) / tokens[:, None]
    nll, mean_exp_nll, entropy, el2n, margin = means.unbind(1)
    return SampleScores(nll, mean_exp_nll, entropy, el2n, margin, tokens.long())


def segment_sum(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Sum of ``values`` [T] or [T, d] over each segment, in float64, in the tokens' order; 0 for an empty segment."""
    lengths = cu_seqlens.diff().long()
    return torch.segment_reduce(values.double(), "sum", lengths=lengths, axis=0, initial=0.0, unsafe=True)
