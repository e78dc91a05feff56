"""Signs from Philox words, bit by bit."""

from __future__ import annotations

import torch
from adaptinf_kernels.philox.reference import philox4x32
from torch import Tensor


def not_supported_reasons(
    key: int, domain: int, row: int, rows: int, column: int, columns: int, device: torch.device
) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(key: int, domain: int, row: int, rows: int, column: int, columns: int, device: torch.device) -> Tensor:
    first, last = column // 128, -(-(column + columns) // 128)
    block = torch.arange(first, last, dtype=torch.int64, device=device)[None, :]
    row_ids = torch.arange(row, row + rows, dtype=torch.int64, device=device)[:, None]
    block, row_ids = torch.broadcast_tensors(block, row_ids)
    counter = [block & 0xFFFFFFFF, block >> 32, row_ids, torch.full_like(block, domain)]
    words = torch.stack(philox4x32(counter, key), dim=2)  # [rows, blocks, 4]
    bits = (words[..., None] >> torch.arange(32, device=device)) & 1  # [rows, blocks, 4, 32]
    signs = (1 - 2 * bits).to(torch.int8).reshape(rows, (last - first) * 128)
    return signs[:, column - first * 128 :][:, :columns].contiguous()
