"""Per-sample scores from per-token ones."""

from __future__ import annotations

from collections.abc import Collection

import torch
from adaptinf_kernels import TokenScores
from torch import Tensor

TOKEN_SCORES = ("nll", "mean_exp_nll", "entropy", "el2n", "margin")
"""Means over a sample's labelled tokens; their formulas are in docs/architecture.md."""


def sample_means(token: TokenScores, cu_seqlens: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """The scores ``names`` of every sample, float64 [samples]; NaN for a sample without a labelled token."""
    values = {
        "nll": lambda: token.nll,
        "mean_exp_nll": lambda: token.nll.double().exp(),
        "entropy": lambda: token.entropy,
        "el2n": lambda: token.el2n_sq.clamp_min(0).sqrt(),
        "margin": lambda: token.margin,
    }
    count = cu_seqlens.diff().double()
    return {name: segment_sum(values[name](), cu_seqlens) / count for name in TOKEN_SCORES if name in names}


def segment_sum(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Sum of ``values`` [n] or [n, d] over each segment, in float64, in index order; an empty segment sums to 0."""
    lengths = cu_seqlens.diff().long()
    return torch.segment_reduce(values.double(), "sum", lengths=lengths, axis=0, initial=0.0, unsafe=True)
