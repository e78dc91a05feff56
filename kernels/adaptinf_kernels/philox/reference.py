"""Philox4x32-10 (Salmon et al., SC 2011) in torch integers; wrapping int64 products hold all 64 bits."""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def not_supported_reasons(key: int, start: int, count: int, word2: int, word3: int, device: torch.device) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(key: int, start: int, count: int, word2: int, word3: int, device: torch.device) -> Tensor:
    counter = torch.arange(start, start + count, dtype=torch.int64, device=device)
    words = [counter & _WORD, (counter >> 32) & _WORD, torch.full_like(counter, word2), torch.full_like(counter, word3)]
    return torch.stack(philox4x32(words, key), dim=1)


def philox4x32(counter: list[Tensor], key: int) -> list[Tensor]:
    """Ten rounds on four int64 tensors that hold 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & _WORD, key >> 32
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return [c0, c1, c2, c3]
