"""Sketching a stretch of a flattened gradient: the part that the references of ``project`` and ``grad_sketch`` share.

A parameter's columns are taken in blocks that depend on its shape and the sketch alone, and one sample at a time, so a
sample's result has the same bits whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.tables import rademacher_block, sjlt_codes, xorts_codes
from torch import Tensor

_ENTRIES = 1 << 22
"""Entries of a table held at once."""


def blocks(sketch: Sketch, shape: tuple[int, int]) -> Iterator[tuple[range, range]]:
    """Rows and columns of the weight, piece by piece; a piece has whole rows, or lies in one row."""
    entries = max(1, _ENTRIES // {"rademacher": sketch.k, "sjlt": sketch.nonzeros}.get(sketch.kind, 1))
    columns = max(1, min(shape[1], entries))
    rows = entries // columns if columns == shape[1] else 1
    for row in range(0, shape[0], rows):
        for column in range(0, shape[1], columns):
            yield range(row, min(row + rows, shape[0])), range(column, min(column + columns, shape[1]))


class Columns:
    """The sketch matrix at the entries of one of the :func:`blocks` of a weight of ``shape``, for kinds but kron.

    ``total`` is the accumulator that its columns are added to.
    """

    def __init__(
        self, sketch: Sketch, name: str, shape: tuple[int, int], rows: range, columns: range, total: Tensor
    ) -> None:
        self.total, device = total, total.device
        self._signs = self._codes = None
        if sketch.kind == "rademacher":
            first = rows.start * shape[1] + columns.start
            count = len(rows) * len(columns)
            self._signs = rademacher_block(sketch, name, first, first + count, device).to(total.dtype)
        elif sketch.kind == "sjlt":
            self._codes = sjlt_codes(sketch, name, rows, columns, device)
        else:
            row_codes = xorts_codes(sketch, name, 0, shape[0], device)[:, rows.start : rows.stop, None]
            column_codes = xorts_codes(sketch, name, 1, shape[1], device)[:, None, columns.start : columns.stop]
            self._codes = (row_codes ^ column_codes).flatten(1)

    def add(self, sample: int, values: Tensor) -> None:
        """Add the sketch of ``values``, a contiguous vector of these entries, to a sample's row."""
        row = self.total[sample]
        if self._signs is not None:
            row.add_(torch.mv(self._signs, values))
        elif self._codes is not None and values.is_cuda:  # scatter_add_ has no order there
            row.index_put_((self._codes.flatten(),), values.repeat(len(self._codes)), accumulate=True)
        elif self._codes is not None:
            row.scatter_add_(0, self._codes.flatten(), values.repeat(len(self._codes)))


def accumulator(sketch: Sketch, samples: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that :class:`Columns` adds to and :func:`finish` reads: [samples, k], or 2k where codes carry the sign."""
    width = sketch.k if sketch.kind in ("rademacher", "kron") else 2 * sketch.k
    return torch.zeros(samples, width, dtype=dtype, device=device)


def finish(sketch: Sketch, total: Tensor) -> Tensor:
    """[samples, k] from the accumulator, entries +-1: the positive half less the negative one."""
    return total if total.shape[1] == sketch.k else total[:, : sketch.k] - total[:, sketch.k :]


def working_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
