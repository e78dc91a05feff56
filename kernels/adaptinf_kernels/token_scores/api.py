"""Per-token scores from hidden states, a head and labels."""

from __future__ import annotations

from typing import NamedTuple

import adaptinf_kernels.token_scores.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._arrays import Array, as_tensor
from adaptinf_kernels._dispatch import Impl
from torch import Tensor


class TokenScores(NamedTuple):
    """One float32 number per token; see :func:`token_scores`."""

    nll: Tensor
    entropy: Tensor
    el2n_sq: Tensor
    margin: Tensor
    grad_hidden: Tensor | None


def token_scores(
    hidden: Array,
    weight: Array | None,
    labels: Array,
    *,
    bias: Array | None = None,
    grad: bool = False,
    impl: Impl = "auto",
) -> TokenScores:
    """Scores of every token from ``l = W h + b``, ``p = softmax(l)`` and its label y, never holding ``[T, V]``.

    * ``nll``: ``-log p_y``, nats.
    * ``entropy``: ``-sum_v p_v log p_v``, nats; also where the label is -100.
    * ``el2n_sq``: ``||onehot(y) - p||^2`` (Paul et al. 2021, squared).
    * ``margin``: ``l_y - max_{v != y} l_v`` (the margin of AUM, Pleiss et al. 2020); +inf where V = 1.
    * ``grad_hidden``: ``d nll / d h = W^T (p - onehot(y))``, per token and unweighted; float32 [T, d].

    Labels are aligned with ``hidden``: shift them before. Where a label is -100 all but ``entropy`` are 0. Sums are
    float32 (float64 for float64 input). Not differentiable; ``grad_hidden`` is the derivative. "native" and "triton"
    give a token the same bits in any batch and for any number of threads; with a head of low precision they may round
    ``p_v``, v != y, to it before the product with W.

    Args:
        hidden: [T, d], floating point; with ``weight`` None these are the logits [T, V].
        weight: [V, d], the head, or None.
        labels: int64 [T], token ids or -100.
        bias: [V], only with ``weight``.
        grad: also compute ``grad_hidden`` (with ``weight`` None it is [T, V]); otherwise it is None.
        impl: "auto", "triton" (CUDA), "native" (CPU) or "reference".

    Raises:
        ValueError: shapes do not fit, or a label is no token id; the message names the token. On an accelerator labels
            are not read: there a wrong one makes all numbers of its token NaN.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.
    """
    hidden, labels = as_tensor("hidden", hidden), as_tensor("labels", labels)
    weight = None if weight is None else as_tensor("weight", weight)
    bias = None if bias is None else as_tensor("bias", bias)
    check_head(hidden, weight, labels, bias)
    nll, entropy, el2n_sq, margin, grad_hidden = torch.ops.adaptinf_kernels.token_scores(
        hidden, weight, labels, bias, grad, impl
    )
    return TokenScores(nll, entropy, el2n_sq, margin, grad_hidden if grad else None)


def check_head(hidden: Tensor, weight: Tensor | None, labels: Tensor, bias: Tensor | None) -> None:
    """Shapes, dtypes and devices of what :func:`token_scores` takes; ValueError or TypeError."""
    if hidden.dim() != 2:
        raise ValueError(f"hidden must be [T, d], not {list(hidden.shape)}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, not {labels.dtype}")
    if labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels must be [T={hidden.shape[0]}], not {list(labels.shape)}")
    if weight is None and bias is not None:
        raise ValueError("bias belongs to weight: without a head, hidden holds the logits")
    if weight is not None and (weight.dim() != 2 or weight.shape[1] != hidden.shape[1]):
        raise ValueError(f"weight must be [V, d={hidden.shape[1]}], not {list(weight.shape)}")
    vocabulary = hidden.shape[1] if weight is None else weight.shape[0]
    if vocabulary == 0:
        raise ValueError("the vocabulary is empty")
    if bias is not None and bias.shape != (vocabulary,):
        raise ValueError(f"bias must be [V={vocabulary}], not {list(bias.shape)}")
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, not {tensor.dtype}")
    for name, tensor in (("weight", weight), ("bias", bias), ("labels", labels)):
        if tensor is not None and tensor.device != hidden.device:
            raise ValueError(f"{name} is on {tensor.device} and hidden on {hidden.device}")
