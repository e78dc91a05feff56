"""The scores of tokens that a pass can be asked for, as means over a sample."""

from __future__ import annotations

from collections.abc import Collection

from adaptinf_kernels import TokenScores, sample_scores
from torch import Tensor

TOKEN_SCORES = ("nll", "mean_exp_nll", "entropy", "el2n", "margin")
"""Means over a sample's labelled tokens; their formulas are in docs/architecture.md."""


def sample_means(token: TokenScores, cu_seqlens: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """The scores ``names`` of every sample, float64 [samples]; NaN for a sample without a labelled token."""
    means = sample_scores(token, cu_seqlens)._asdict()
    return {name: means[name] for name in TOKEN_SCORES if name in names}
