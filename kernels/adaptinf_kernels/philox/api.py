"""Philox4x32-10 words for consecutive counters."""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Impl, Op
from torch import Tensor

_OP = Op("philox", "native", "reference")


def philox(
    key: int,
    start: int,
    count: int,
    *,
    word2: int = 0,
    word3: int = 0,
    device: torch.device | str = "cpu",
    impl: Impl = "auto",
) -> Tensor:
    """int64 [count, 4], each a 32-bit word: row i is Philox4x32-10 of counter ``(n mod 2^32, n >> 32, word2, word3)``,
    n = start + i, under the 64-bit ``key`` (low half first).

    All implementations give the same bits. Raises ValueError where an argument is out of range, NotSupportedError
    where ``impl`` cannot run.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    if not 0 <= key < 2**64:
        raise ValueError(f"key={key} is not an unsigned 64-bit number")
    if start < 0 or count < 0 or start + count > 2**63 - 1:
        raise ValueError(f"counters {start} to {start} + {count} are not within 0 to 2^63 - 1")
    for name, word in (("word2", word2), ("word3", word3)):
        if not 0 <= word < 2**32:
            raise ValueError(f"{name}={word} is not an unsigned 32-bit number")
    return _OP(impl, key, start, count, word2, word3, torch.device(device))
