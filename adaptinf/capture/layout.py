"""Where the tokens of every sample lie in a collated batch, padded or packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptinf.capture.segments import Segments
from adaptinf.models import Encoded


@dataclass(frozen=True)
class Layout:
    """Positions in the flattened ``[B*T]`` grid, sample after sample.

    ``tokens`` [n] every token and ``cu_seqlens`` [samples + 1] its sample; ``predictors`` [m] the tokens whose hidden
    state predicts an answer token, ``targets`` [m] those answer tokens and ``answer_cu`` [samples + 1] their sample.
    ``segments`` says the same of the tokens to the taps.
    """

    segments: Segments
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
    cells = sum(lengths) if packed else len(batch) * stride
    every, cu_seqlens = torch.cat(tokens).to(device), _cumulative(lengths).to(device)
    return Layout(
        segments=Segments(len(batch), cu_seqlens, every if len(every) < cells else None, cells),
        tokens=every,
        cu_seqlens=cu_seqlens,
        predictors=torch.cat(predictors).to(device),
        targets=torch.cat(targets).to(device),
        answer_cu=_cumulative(answers).to(device),
    )


def _cumulative(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32)
