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
    check_labels(labels, hidden.shape[1] if weight is None else weight.shape[0])
    return OP(impl, hidden, weight, labels, bias, grad)


def check_labels(labels: Tensor, vocabulary: int) -> None:
    """Raises ValueError for the first label that is neither -100 nor a token id."""
    wrong = ((labels < 0) | (labels >= vocabulary)) & (labels != -100)
    if wrong.any():
        token = int(wrong.nonzero()[0])
        raise ValueError(f"labels[{token}]={int(labels[token])} is neither -100 nor a token id under V={vocabulary}")


@torch.library.register_fake("adaptinf_kernels::token_scores", lib=_library)
def _token_scores_fake(
    hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None, grad: bool, impl: str
) -> Scores:
    tokens, width = hidden.shape
    nll, entropy, el2n_sq, margin = (hidden.new_empty(tokens, dtype=torch.float32) for _ in range(4))
    return nll, entropy, el2n_sq, margin, hidden.new_empty(tokens if grad else 0, width, dtype=torch.float32)
