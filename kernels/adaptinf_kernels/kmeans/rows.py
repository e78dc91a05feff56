"""The rows of one problem, wherever they lie: in one tensor, in chunks, on several ranks.

Whatever crosses from rows to clusters is an integer, so that neither chunks nor ranks can change a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from adaptinf_kernels.kmeans.arithmetic import Frame
from adaptinf_kernels.kmeans.ops import Assigned
from adaptinf_kernels.kmeans.ranks import Alone, Ranks
from torch import Tensor

Accumulate = Callable[[Tensor, Tensor, Tensor | None, Frame], Assigned]
"""``accumulate(x, centroids, weights, frame)`` of an implementation."""


class Rows(Ranks, Protocol):
    """What initialisation and Lloyd's iteration ask of the rows; they are numbered over all ranks."""

    count: int
    """On all ranks."""
    first: int
    """The number of the first local row."""
    weights: Tensor | None
    """float64, of the local rows."""

    def accumulate(self, centroids: Tensor) -> Assigned:
        """All rows labelled; labels and distances are of the local rows, everything else is summed over ranks."""
        ...

    def fetch(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows of x in this order, from whatever rank, and their weights."""
        ...


class InMemory(Alone):
    """Rows in one tensor, on one rank."""

    first = 0

    def __init__(self, x: Tensor, weights: Tensor | None, frame: Frame, accumulate: Accumulate) -> None:
        self.x, self.weights, self.frame = x, weights, frame
        self.count = len(x)
        self._accumulate = accumulate

    def accumulate(self, centroids: Tensor) -> Assigned:
        return self._accumulate(self.x, centroids, self.weights, self.frame)

    def fetch(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        numbers = numbers.to(self.x.device)
        return self.x[numbers], None if self.weights is None else self.weights[numbers]
