"""``torch.ops.adaptinf_kernels.token_scores``."""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Op
from torch import Tensor

OP = Op("token_scores", "triton", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "token_scores(Tensor hidden, Tensor? weight, Tensor labels, Tensor? bias, bool grad, str impl)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)

Scores = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.impl(_library, "token_scores", "CPU")
@torch.library.impl(_library, "token_scores", "CUDA")
def _token_scores(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool, impl: str
) -> Scores:
    if labels.device.type != "cpu":
        return _marking_wrong_labels(hidden, weight, labels, bias, grad, impl)
    check_labels(labels, hidden.shape[1] if weight is None else weight.shape[0])
    return OP(impl, hidden, weight, labels, bias, grad)


def check_labels(labels: Tensor, vocabulary: int) -> None:
    """Raises ValueError for the first label that is neither -100 nor a token id."""
    wrong = _wrong_labels(labels, vocabulary)
    if wrong.any():
        token = int(wrong.nonzero()[0])
        raise ValueError(f"labels[{token}]={int(labels[token])} is neither -100 nor a token id under V={vocabulary}")


def _marking_wrong_labels(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool, impl: str
) -> Scores:
    """NaN where a label is wrong: to read them here would wait for the accelerator, and no graph could be captured."""
    wrong = _wrong_labels(labels, hidden.shape[1] if weight is None else weight.shape[0])
    *scores, grad_hidden = OP(impl, hidden, weight, labels.masked_fill(wrong, 0), bias, grad)
    nll, entropy, el2n_sq, margin = (score.masked_fill_(wrong, torch.nan) for score in scores)
    return nll, entropy, el2n_sq, margin, grad_hidden.masked_fill_(wrong[:, None], torch.nan) if grad else grad_hidden


def _wrong_labels(labels: Tensor, vocabulary: int) -> Tensor:
    return ((labels < 0) | (labels >= vocabulary)) & (labels != -100)


@torch.library.register_fake("adaptinf_kernels::token_scores", lib=_library)
def _token_scores_fake(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool, impl: str
) -> Scores:
    tokens, width = hidden.shape
    nll, entropy, el2n_sq, margin = (hidden.new_empty(tokens, dtype=torch.float32) for _ in range(4))
    return nll, entropy, el2n_sq, margin, hidden.new_empty(tokens if grad else 0, width, dtype=torch.float32)
