"""``torch.ops.adaptinf_kernels.signs``."""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Op
from adaptinf_kernels.sketch.definition import philox_key
from torch import Tensor

OP = Op("signs", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "signs(int seed, str name, int domain, int row, int rows, int column, int columns, Device device, str impl)"
    " -> Tensor"
)


@torch.library.impl(_library, "signs", "CompositeExplicitAutograd")
def _signs(
    seed: int, name: str, domain: int, row: int, rows: int, column: int, columns: int, device: torch.device, impl: str
) -> Tensor:
    return OP(impl, philox_key(seed, name), domain, row, rows, column, columns, device)


@torch.library.register_fake("adaptinf_kernels::signs", lib=_library)
def _signs_fake(
    seed: int, name: str, domain: int, row: int, rows: int, column: int, columns: int, device: torch.device, impl: str
) -> Tensor:
    return torch.empty(rows, columns, dtype=torch.int8, device=device)
