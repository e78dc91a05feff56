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
    cu_seqlens = _cumulative(torch.tensor(lengths))
    tokens = torch.arange(int(cu_seqlens[-1]))
    if not packed:
        skipped = torch.arange(len(batch)) * stride - cu_seqlens[:-1]
        tokens += skipped.repeat_interleave(cu_seqlens.diff())
    # The label of token t + 1 is predicted by the hidden state of token t; the first token is predicted by none.
    labels = torch.cat([encoded.labels for encoded in batch])
    answer = labels != -100
    answer[cu_seqlens[:-1]] = False
    so_far = _cumulative(answer)
    cells = sum(lengths) if packed else len(batch) * stride
    every, bounds = tokens.to(device), cu_seqlens.to(device, torch.int32)
    return Layout(
        segments=Segments(len(batch), bounds, every if len(every) < cells else None, cells),
        tokens=every,
        cu_seqlens=bounds,
        predictors=(tokens[answer] - 1).to(device),
        targets=labels[answer].to(device),
        answer_cu=so_far[cu_seqlens].to(device, torch.int32),
    )


def _cumulative(counts: Tensor) -> Tensor:
    """0, and the sums of the first 1, 2, ... of ``counts``."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
