"""Where the tokens of every sample lie in a batch, padded or packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptinf.models import Encoded


@dataclass(frozen=True)
class Layout:
    """Positions in the flattened ``[B*T]`` grid, sample after sample.

    ``tokens`` [n] every token and ``cu_seqlens`` [samples + 1] its sample; ``predictors`` [m] the tokens whose hidden
    state predicts an answer token, ``targets`` [m] those answer tokens and ``answer_cu`` [samples + 1] their sample.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    predictors: Tensor
    targets: Tensor
    answer_cu: Tensor

    @property
    def answer_lengths(self) -> Tensor:
        return self.answer_cu.diff()

    @property
    def lengths(self) -> Tensor:
        return self.cu_seqlens.diff()


def layout(batch: Sequence[Encoded], *, packed: bool, device: torch.device) -> Layout:
    """The layout of ``Encoder.collate(batch, padding_side="right", packed=packed)``."""
    lengths = [len(encoded.input_ids) for encoded in batch]
    stride = max(lengths)
    tokens, predictors, targets, answers = [], [], [], []
    start = 0
    for row, encoded in enumerate(batch):
        offset = start if packed else row * stride
        start += lengths[row]
        # The label of token t + 1 is predicted by the hidden state of token t; the first token is predicted by none.
        where = (encoded.labels[1:] != -100).nonzero().squeeze(1)
        tokens.append(torch.arange(offset, offset + lengths[row]))
        predictors.append(where + offset)
        targets.append(encoded.labels[1:][where])
        answers.append(len(where))
    return Layout(
        tokens=torch.cat(tokens).to(device),
        cu_seqlens=_cumulative(lengths).to(device),
        predictors=torch.cat(predictors).to(device),
        targets=torch.cat(targets).to(device),
        answer_cu=_cumulative(answers).to(device),
    )


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of samples of like length, longest first, so that a padded batch holds at most ``batch_tokens`` cells.

    A sample longer than that is a batch of its own. Longest first, so that memory runs out at once or never.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def segment_sum(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Sum of ``values`` [n] or [n, d] over each segment, in float64, in index order; an empty segment sums to 0."""
    lengths = cu_seqlens.diff().long()
    return torch.segment_reduce(values.double(), "sum", lengths=lengths, axis=0, initial=0.0, unsafe=True)


def _cumulative(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32)
