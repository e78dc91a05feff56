"""How the ranks of a fit put their numbers together."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(Protocol):
    """What ranks exchange; the order of ranks is that of their rows."""

    rank: int

    def total(self, counts: Tensor) -> Tensor:
        """An integer tensor summed over ranks."""
        ...

    def together(self, values: Tensor) -> Tensor:
        """The first dimension of every rank, one after the other."""
        ...


class Alone:
    """One rank."""

    rank = 0

    def total(self, counts: Tensor) -> Tensor:
        return counts

    def together(self, values: Tensor) -> Tensor:
        return values


class Group:
    """The ranks of a ``torch.distributed`` process group, each of which calls with its part of the rows."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.rank = group, group.rank()

    def total(self, counts: Tensor) -> Tensor:
        counts = counts.clone()
        dist.all_reduce(counts, group=self.group)
        return counts

    def together(self, values: Tensor) -> Tensor:
        lengths = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(self.group.size())]
        dist.all_gather(lengths, torch.tensor([len(values)], device=values.device), group=self.group)
        counts = [int(length) for length in lengths]
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        padded = padded.flatten().view(torch.uint8)  # not every backend takes every dtype
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=self.group)
        shape = (max(counts), *values.shape[1:])
        return torch.cat(
            [part.view(values.dtype).reshape(shape)[:count] for part, count in zip(parts, counts, strict=True)]
        )
