"""Taking arrays of torch, NumPy, CuPy or any library that speaks DLPack."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class SupportsDLPack(Protocol):
    """An array of any library: CuPy, JAX, NumPy, ..."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...


Array = Tensor | SupportsDLPack


def as_tensor(what: str, values: Array) -> Tensor:
    """A torch tensor over the same memory, without gradients; a copy of a read-only or reversed NumPy array.

    Raises TypeError where it is no array.
    """
    if isinstance(values, Tensor):
        return values.detach()
    if isinstance(values, np.ndarray):
        plain = values if values.flags.writeable and min(values.strides, default=0) >= 0 else values.copy()
        return torch.from_numpy(plain)
    if not hasattr(values, "__dlpack__"):
        raise TypeError(f"{what} must be an array with __dlpack__ (torch, NumPy, CuPy), not {type(values).__name__}")
    return torch.from_dlpack(values)


def as_matrix(what: str, values: Any) -> Tensor:
    """A finite floating-point matrix as a tensor without gradients.

    Raises TypeError or ValueError with the first row that holds NaN or infinity.
    """
    values = as_tensor(what, values)
    if values.dim() != 2:
        raise ValueError(f"{what} must be [N, d], not {list(values.shape)}")
    if not values.is_floating_point():
        raise TypeError(f"{what} must be floating point, not {values.dtype}")
    if values.numel() and not torch.stack(values.aminmax()).isfinite().all():
        bad = (~torch.isfinite(values).all(dim=1)).nonzero()[:, 0]
        raise ValueError(
            f"{what} has NaN or infinity in {len(bad)} of {len(values)} rows, the first is row {int(bad[0])}"
        )
    return values


def like(original: Any, tensor: Tensor) -> Any:
    """``tensor`` as NumPy where ``original`` is NumPy."""
    return tensor.cpu().numpy() if isinstance(original, np.ndarray) else tensor
