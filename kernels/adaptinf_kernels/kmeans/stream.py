"""Fits of rows that are read in chunks, a pass for each iteration, by one rank or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from adaptinf_kernels._arrays import as_tensor
from adaptinf_kernels.kmeans import ops
from adaptinf_kernels.kmeans.arithmetic import Frame
from adaptinf_kernels.kmeans.layout import check_floating, single
from adaptinf_kernels.kmeans.lloyd import lloyd
from adaptinf_kernels.kmeans.ops import Assigned
from adaptinf_kernels.kmeans.options import Options
from adaptinf_kernels.kmeans.problem import (
    Fitted,
    as_centroids,
    check_weights,
    draw,
    measure,
    start_frame,
    start_given,
)
from adaptinf_kernels.kmeans.ranks import Ranks
from adaptinf_kernels.kmeans.rows import Accumulate
from torch import Tensor

CHUNK_BYTES = 64 << 20
"""A memory map is read in chunks of so many bytes."""


class Chunks:
    """Rows that can be read again and again, as tensors [n, d].

    After the first pass, :meth:`admit`, each pass gives the finite rows alone.
    """

    def __init__(self, source: Any, options: Options) -> None:
        if isinstance(source, np.memmap):
            if source.ndim != 2:
                raise ValueError(f"x must be [N, d], not {list(source.shape)}")
            step = max(1, CHUNK_BYTES // max(1, source.shape[1] * source.itemsize))
            source = _Slices(source, step)
        elif isinstance(source, (Tensor, np.ndarray)):
            source = [source]
        elif not isinstance(source, Iterable):
            raise TypeError(f"x must be an array or an iterable of arrays, not {type(source).__name__}")
        elif isinstance(source, Iterator):
            raise TypeError(
                "x is an iterator, which is read once; give what can be read again: a list, an object with __iter__"
            )
        self._source, self._options = source, options
        self._masks: list[Tensor | None] = []
        self._lengths: list[int] = []
        self.first: Any = None

    def admit(self, ranks: Ranks) -> list[tuple[ops.Extremes, Tensor]]:
        """The first pass: checks, and the extremes and numbers of finite rows of each chunk."""
        found, bad, read = [], -1, 0
        for x in self._read():
            cu_rows = torch.tensor([0, len(x)])
            extremes, mask = ops.extremes(self._options.impl, x, cu_rows), None
            if extremes.bad[0] >= 0:
                bad = read + int(extremes.bad[0]) if bad < 0 else bad
                mask = torch.isfinite(x).all(1)
                cu_rows = torch.tensor([0, int(mask.sum())])
                extremes = ops.extremes(self._options.impl, x[mask], cu_rows)
            self._masks.append(mask)
            self._lengths.append(len(x))
            found.append((extremes, cu_rows[1:].to(x.device)))
            read += len(x)
        if not found:
            raise ValueError("x has no chunks; at least one is needed, which may have no rows")
        self._check_ranks(ranks, bad, read)
        return found

    def __iter__(self) -> Iterator[Tensor]:
        index = -1
        for index, x in enumerate(self._read()):
            if index >= len(self._lengths) or len(x) != self._lengths[index]:
                raise ValueError(f"x gives other chunks than at first: chunk {index} has {len(x)} rows now")
            mask = self._masks[index]
            yield x if mask is None else x[mask]
        if index + 1 != len(self._lengths):
            raise ValueError(f"x gives other chunks than at first: {index + 1}, not {len(self._lengths)}")

    def finite(self) -> Tensor | None:
        """Bool [N] of the local rows, None where all are finite."""
        if all(mask is None for mask in self._masks):
            return None
        pairs = zip(self._masks, self._lengths, strict=True)
        return torch.cat(
            [torch.ones(length, dtype=torch.bool) if mask is None else mask.cpu() for mask, length in pairs]
        )

    def _read(self) -> Iterator[Tensor]:
        for index, chunk in enumerate(self._source):
            x = as_tensor(f"chunk {index} of x", chunk)
            check_floating(f"chunk {index} of x", x)
            if x.dim() != 2 or not x.shape[1]:
                raise ValueError(f"chunk {index} of x must be [n, d], not {list(x.shape)}")
            if self.first is None:
                self.first = chunk
            first = as_tensor("x", self.first)
            if x.shape[1] != first.shape[1] or x.dtype != first.dtype or x.device != first.device:
                raise ValueError(
                    f"chunk {index} of x is {x.dtype} with {x.shape[1]} columns on {x.device}, the first chunk "
                    f"{first.dtype} with {first.shape[1]} on {first.device}"
                )
            yield x

    def _check_ranks(self, ranks: Ranks, bad: int, read: int) -> None:
        """Every rank raises what one of them has to say."""
        first = as_tensor("x", self.first)
        kind = [first.shape[1], first.element_size(), int(first.dtype == torch.bfloat16)]
        said = ranks.together(torch.tensor([[bad, read, *kind]], device=first.device)).cpu()
        if (said[:, 2:] != said[0, 2:]).any():
            raise ValueError("the ranks' rows differ in dtype or columns")
        wrong = (said[:, 0] >= 0).nonzero()[:, 0]
        if len(wrong) and self._options.non_finite == "error":
            rank = int(wrong[0])
            row = int(said[:rank, 1].sum() + said[rank, 0])
            raise ValueError(f"x has NaN or infinity, the first is row {row}; non_finite='ignore' leaves such rows out")


class _Slices:
    """A memory map, so many rows at a time."""

    def __init__(self, x: np.memmap, step: int) -> None:
        self.x, self.step = x, step

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, max(1, len(self.x)), self.step):
            yield np.array(self.x[start : start + self.step])


class _ChunkedRows:
    """The finite rows of chunks on all ranks."""

    def __init__(
        self, chunks: Chunks, ranks: Ranks, local: int, weights: Tensor | None, frame: Frame, accumulate: Accumulate
    ) -> None:
        self.chunks, self.ranks, self.rank = chunks, ranks, ranks.rank
        self.weights, self.frame, self._accumulate = weights, frame, accumulate
        counts = ranks.together(torch.tensor([local], device=frame.origin.device))
        self.count, self.first = int(counts.sum()), int(counts[: ranks.rank].sum())

    def total(self, counts: Tensor) -> Tensor:
        return self.ranks.total(counts)

    def together(self, values: Tensor) -> Tensor:
        return self.ranks.together(values)

    def accumulate(self, centroids: Tensor) -> Assigned:
        states, start = [], 0
        for x in self.chunks:
            weights = None if self.weights is None else self.weights[start : start + len(x)]
            states.append(self._accumulate(x, centroids, weights, self.frame))
            start += len(x)
        labels, distances, *integers = zip(*states, strict=True)
        sums, weights, sizes, inertia = (self.total(torch.stack(parts).sum(0)) for parts in integers)
        return Assigned(torch.cat(labels), torch.cat(distances), sums, weights, sizes, inertia)

    def fetch(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        numbers = numbers.to(self.frame.origin.device)
        ascending, place = numbers.sort()
        found, start = [], self.first
        for x in self.chunks:
            bounds = torch.tensor([start, start + len(x)], device=numbers.device)
            begin, end = torch.searchsorted(ascending, bounds).tolist()
            found.append(x[ascending[begin:end] - start])
            start += len(x)
        mine = (ascending >= self.first) & (ascending < start)
        weights = None
        if self.weights is not None:
            weights = self.together(self.weights[ascending[mine] - self.first])[place.argsort()]
        return self.together(torch.cat(found))[place.argsort()], weights


def fit_in_chunks(
    source: Any, k: int, init: str | Tensor, sample_weight: Tensor | None, ranks: Ranks, options: Options
) -> tuple[Fitted, Tensor | None, Any]:
    """One problem; also the local rows that are finite, where some are not and are ignored, and the first chunk."""
    impl, spherical = options.impl, options.spherical
    chunks = Chunks(source, options)
    found = chunks.admit(ranks)
    finite = chunks.finite()
    local = sum(int(count) for _, count in found)
    first = as_tensor("x", chunks.first)
    if isinstance(init, Tensor) and init.shape[1] != first.shape[1]:
        raise ValueError(f"init must be [k, d] = {[k, first.shape[1]]}, not {list(init.shape)}")
    layout = single(local, k)

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        return ((x, torch.tensor([0, len(x)])) for x in chunks)

    place, threshold = measure(parts, found, ranks, options, layout)
    heaviest = torch.ones_like(place.reach)
    weights = None
    if sample_weight is not None:
        rows = local if finite is None else len(finite)
        weights = check_weights(sample_weight, rows, first.device)
        weights = weights if finite is None else weights[finite.to(weights.device)]
        heaviest = ranks.together(weights.amax(0, keepdim=True) if local else torch.zeros_like(heaviest)).amax(0)[None]
    if isinstance(init, Tensor):
        centroids, frame = start_given(init, first.dtype, place, heaviest, layout, options)
    else:
        centroids, frame = None, start_frame(place, heaviest, layout, options)
    accumulate = partial(ops.accumulate, impl, spherical=spherical, fast=options.fast)
    rows = _ChunkedRows(chunks, ranks, local, weights, frame, accumulate)
    if centroids is None:
        centroids = as_centroids(draw(rows, k, str(init), frame, options), first.dtype, spherical)
    fit = lloyd(
        rows,
        centroids,
        frame,
        threshold=float(threshold),
        by_inertia=options.stop == "inertia",
        max_iter=options.max_iter,
        empty=options.refill,
        spherical=spherical,
    )
    return Fitted(fit, frame), finite, chunks.first
