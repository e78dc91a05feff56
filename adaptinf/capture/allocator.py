"""Memory that a pass over a model frees and asks for again, batch by batch.

glibc gives freed memory back to the kernel once some tens of megabytes of it lie at the heap's end, and takes it anew,
page by page and zeroed, for the next batch's activations. Where a batch takes tens of milliseconds that is a tenth of
the time (docs/measured-facts.md).
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of malloc.h."""

_HIGHEST = 32 << 20
"""The largest mmap threshold; glibc raises its own up to it, with a trim threshold of twice as much, as blocks of that
size are freed."""

_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """For the context, what is freed in blocks of up to 32 MiB stays with the process.

    Changes nothing for other C libraries than glibc, and where the environment already sets malloc's thresholds.
    Afterwards the thresholds are the highest that glibc itself would have come to, so memory is given back as ever.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _SETTINGS):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _HIGHEST)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, 2 * _HIGHEST)
