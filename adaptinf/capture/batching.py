"""Which samples go through the model together: windows that fit in memory, batches of like length, sizes that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from adaptinf.errors import SampleTooLongError
from adaptinf.models import Encoded

WINDOW_BYTES = 1 << 30
"""Pictures and other tensors of encoded samples that are held at once."""

CPU_TOKENS = 2048
"""Tokens a batch on a CPU: the activations of small models stay in its cache, large ones gain nothing from more."""

GPU_TOKENS = 4096
"""Tokens of the first batch on an accelerator."""

_SHARE = 0.7
"""Of the accelerator's free memory that a batch may take by the estimate from the largest batch so far."""

Result = TypeVar("Result")


def windows(found: Iterable[Encoded], limit: int = WINDOW_BYTES) -> Iterator[list[Encoded]]:
    """Consecutive samples whose extras together take at most ``limit`` bytes, or one sample."""
    window: list[Encoded] = []
    held = 0
    for encoded in found:
        size = sum(extra.nbytes for extra in encoded.extras.values())
        if window and held + size > limit:
            yield window
            window, held = [], 0
        window.append(encoded)
        held += size
    if window:
        yield window


class Batching:
    """Runs batches of at most ``tokens`` cells each (padding counted), samples of like length together.

    ``tokens="auto"``: on a CPU a fixed number, so that the same pool makes the same batches; on an accelerator as many
    as its memory holds, measured on the batches already run. A batch that does not fit runs in halves, and the batches
    after it are smaller.
    """

    def __init__(self, tokens: int | str, device: torch.device) -> None:
        self._adapts = tokens == "auto" and device.type == "cuda"
        self.tokens = tokens if isinstance(tokens, int) else GPU_TOKENS if self._adapts else CPU_TOKENS
        self._device = device

    def run(
        self, encoded: Sequence[Encoded], work: Callable[[list[Encoded]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """``(indices, work of these samples)`` until every sample has had its turn, longest first."""
        waiting = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i].input_ids), i))
        while waiting:
            longest = len(encoded[waiting[0]].input_ids)
            count = max(1, self.tokens // longest)
            indices, waiting = waiting[:count], waiting[count:]
            yield from self._fitting(encoded, indices, work)

    def _fitting(
        self, encoded: Sequence[Encoded], indices: list[int], work: Callable[[list[Encoded]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        longest = max(len(encoded[i].input_ids) for i in indices)
        try:
            yield indices, self._measured(longest * len(indices), lambda: work([encoded[i] for i in indices]))
            return
        except torch.OutOfMemoryError as error:
            if len(indices) == 1:
                raise SampleTooLongError(
                    f"its {longest} tokens do not fit in memory even alone",
                    item=encoded[indices[0]].id,
                    remedy="lower model.max_length, or use a smaller dtype or a quantised base",
                ) from error
        torch.cuda.empty_cache()
        middle = len(indices) // 2
        self.tokens, self._adapts = min(self.tokens, longest * middle), False
        yield from self._fitting(encoded, indices[:middle], work)
        yield from self._fitting(encoded, indices[middle:], work)

    def _measured(self, cells: int, work: Callable[[], Result]) -> Result:
        """Run a batch; on an accelerator make the next as large as the memory it took allows."""
        if not self._adapts:
            return work()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        result = work()
        taken = torch.cuda.max_memory_allocated(self._device) - before
        free = torch.cuda.mem_get_info(self._device)[0] + torch.cuda.memory_reserved(self._device) - before
        self.tokens = next_tokens(self.tokens, cells, taken, free)
        return result


def next_tokens(tokens: int, cells: int, taken: int, free: int) -> int:
    """Tokens of the next batch after one of ``cells`` took ``taken`` of ``free`` bytes: at most four times as many."""
    fits = int(cells * _SHARE * free / max(taken, 1))
    return max(1, min(fits, 4 * tokens)) if cells * 2 > tokens else tokens
