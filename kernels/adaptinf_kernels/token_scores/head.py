"""Sketches of the gradient of the head itself, from tiles of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from adaptinf_kernels._arrays import Array, as_tensor
from adaptinf_kernels.sketch.columns import Columns, accumulator, blocks, finish, working_dtype
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.samples import check_bounds, check_cu_seqlens
from adaptinf_kernels.sketch.tables import kron_factors, xorts_codes
from adaptinf_kernels.sketch.transforms import count_sketch, walsh_hadamard
from adaptinf_kernels.token_scores.api import check_head
from adaptinf_kernels.token_scores.ops import check_labels
from torch import Tensor

_ROWS = 4096
"""Rows of the head whose probabilities are held at once, where the sketch does not say."""


def head_sketch(
    hidden: Array,
    weight: Array,
    labels: Array,
    cu_seqlens: Array,
    sketch: Sketch,
    *,
    name: str,
    bias: Array | None = None,
    token_weights: Array | None = None,
    add_to: Tensor | None = None,
) -> Tensor:
    """Sketch the head's own gradient for every sample, without ``[T, V]`` and without the gradient; float32 [B, k].

    With ``p = softmax(W h + b)`` the gradient of ``sum_t w_t nll_t`` with respect to W is
    ``sum_t w_t (p_t - onehot(y_t)) h_t^T``, so this is ``grad_sketch_linear(hidden, w (p - onehot), ...)`` up to
    rounding. The vocabulary is swept twice, for the softmax's normaliser and for the gradient. A sample's bits do not
    depend on the rest of the batch. Sums are float32 (float64 for float64 input). Plain PyTorch operations. Not
    differentiable.

    Args:
        hidden: [T, d], the head's input, the samples' tokens one after the other.
        weight: [V, d], the head.
        labels: int64 [T], token ids, or -100 for tokens that do not count.
        cu_seqlens: int32 or int64 [B + 1]; sample b has tokens ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]``. A sample
            without tokens gives zeros.
        sketch: the random matrix.
        name: the parameter's name.
        bias: [V].
        token_weights: [T], w; ones if None.
        add_to: float32 [B, k] that the sketches are added to in place, and that is returned.

    Raises:
        ValueError: shapes, labels or segments do not fit.
        TypeError: a dtype does not fit.
    """
    hidden, weight, labels = as_tensor("hidden", hidden), as_tensor("weight", weight), as_tensor("labels", labels)
    cu_seqlens = as_tensor("cu_seqlens", cu_seqlens)
    bias = None if bias is None else as_tensor("bias", bias)
    token_weights = None if token_weights is None else as_tensor("token_weights", token_weights)
    check_head(hidden, weight, labels, bias)
    check_labels(labels, len(weight))
    check_cu_seqlens(cu_seqlens, hidden.device)
    check_bounds(cu_seqlens, len(hidden))
    if token_weights is not None and token_weights.shape != labels.shape:
        raise ValueError(f"token_weights must be [T={len(labels)}], not {list(token_weights.shape)}")
    shape = len(cu_seqlens) - 1, sketch.k
    if add_to is not None and (add_to.shape != shape or add_to.dtype != torch.float32):
        raise ValueError(f"add_to must be float32 {list(shape)}, not {add_to.dtype} {list(add_to.shape)}")
    weights = torch.ones_like(labels, dtype=hidden.dtype) if token_weights is None else token_weights
    samples = list(_samples(hidden, weight, labels, bias, weights, cu_seqlens))
    total = accumulator(sketch, shape[0], working_dtype(hidden), hidden.device)
    if sketch.kind in ("sjlt", "rademacher"):
        for rows, columns in blocks(sketch, (weight.shape[0], weight.shape[1])):
            block = Columns(sketch, name, (weight.shape[0], weight.shape[1]), rows, columns, total)
            for sample in samples:
                gradient = sample.logit_gradient(rows).T @ sample.hidden[:, columns.start : columns.stop]
                block.add(sample.index, gradient.flatten())
        z = finish(sketch, total)
    else:
        z = total[:, : sketch.k]
        for sample in samples:
            z[sample.index] = (_xorts if sketch.kind == "xorts" else _kron)(sample, sketch, name)
    z = (z * sketch.scale).float()
    return z if add_to is None else add_to.add_(z)


@dataclass
class _Sample:
    """The labelled tokens of a sample, and of each the log of ``sum_{v != y} e^(l_v)`` and ``1 - p_y``."""

    index: int
    hidden: Tensor
    weight: Tensor
    labels: Tensor
    bias: Tensor | None
    token_weights: Tensor

    def __post_init__(self) -> None:
        rows = range(len(self.weight))
        tiles = (rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS))
        parts = [self._rivals(tile).logsumexp(1) for tile in tiles]
        self.log_others = torch.stack(parts).logsumexp(0)
        of_labels = self.weight.index_select(0, self.labels).to(self.hidden)
        logit = torch.linalg.vecdot(self.hidden, of_labels)
        logit = logit if self.bias is None else logit + self.bias[self.labels].to(logit)
        self.others = torch.sigmoid(self.log_others - logit)

    def logit_gradient(self, rows: range) -> Tensor:
        """``w (p - onehot)`` [tokens, rows]; the label's entry is ``-w (1 - p_y)`` without cancellation."""
        gradient = (self._rivals(rows) - self.log_others[:, None]).exp_().mul_(self.others[:, None])
        token, row = self._labels_in(rows)
        gradient[token, row] = -self.others[token]
        return gradient.mul_(self.token_weights[:, None])

    def _rivals(self, rows: range) -> Tensor:
        """Logits, the label's left out."""
        logits = self.hidden @ self.weight[rows.start : rows.stop].to(self.hidden).T
        logits = logits if self.bias is None else logits.add_(self.bias[rows.start : rows.stop].to(logits))
        logits[self._labels_in(rows)] = -torch.inf
        return logits

    def _labels_in(self, rows: range) -> tuple[Tensor, Tensor]:
        token = ((self.labels >= rows.start) & (self.labels < rows.stop)).nonzero()[:, 0]
        return token, self.labels[token] - rows.start


def _samples(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, token_weights: Tensor, cu_seqlens: Tensor
) -> Iterator[_Sample]:
    """Those with labelled tokens; fresh copies, because a product's bits may depend on where its operands begin."""
    dtype, bounds = working_dtype(hidden), cu_seqlens.tolist()
    for index in range(len(bounds) - 1):
        counted = (labels[bounds[index] : bounds[index + 1]] != -100).nonzero()[:, 0] + bounds[index]
        if len(counted):
            own = (hidden[counted].to(dtype), weight, labels[counted], bias, token_weights[counted].to(dtype))
            yield _Sample(index, *own)


def _kron(sample: _Sample, sketch: Sketch, name: str) -> Tensor:
    x, shape = sample.hidden, (sample.weight.shape[0], sample.weight.shape[1])
    p_out, p_in = kron_factors(sketch, name, shape, x.device)
    left = x.new_zeros(len(x), len(p_out))
    for first in range(0, shape[0], _ROWS):
        rows = range(first, min(first + _ROWS, shape[0]))
        left += sample.logit_gradient(rows) @ p_out[:, rows.start : rows.stop].to(x).T
    return (left.T @ (x @ p_in.to(x).T)).flatten()


def _xorts(sample: _Sample, sketch: Sketch, name: str) -> Tensor:
    """``sum_t C_out g_t (*) C_in h_t``: the tiles of g meet in k buckets a token, then one product of transforms."""
    x, k, vocabulary = sample.hidden, sketch.k, sample.weight.shape[0]
    out_codes = xorts_codes(sketch, name, 0, vocabulary, x.device)
    in_codes = xorts_codes(sketch, name, 1, x.shape[1], x.device)
    left = x.new_zeros(sketch.repetitions, len(x), k)
    step = k * max(1, _ROWS // k)  # whole turns through the buckets
    for first in range(0, vocabulary, step):
        rows = range(first, min(first + step, vocabulary))
        gradient = sample.logit_gradient(rows)
        for repetition in range(sketch.repetitions):
            left[repetition] += count_sketch(gradient, out_codes[repetition, rows.start : rows.stop], k)
    transformed = x.new_zeros(1, k)
    for repetition in range(sketch.repetitions):
        transformed += (
            walsh_hadamard(left[repetition]) * walsh_hadamard(count_sketch(x, in_codes[repetition], k))
        ).sum(0)
    return walsh_hadamard(transformed)[0] / k
