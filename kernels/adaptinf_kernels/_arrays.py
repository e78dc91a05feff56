"""Taking a torch or NumPy matrix, and giving the same family back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_matrix(what: str, values: Any) -> Tensor:
    """A finite floating-point matrix as a tensor without gradients.

    Raises TypeError or ValueError with the first row that holds NaN or infinity.
    """
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(np.ascontiguousarray(values))
    if not isinstance(values, Tensor):
        raise TypeError(f"{what} must be a torch tensor or a NumPy array, not {type(values).__name__}")
    if values.dim() != 2:
        raise ValueError(f"{what} must be [N, d], not {list(values.shape)}")
    if not values.is_floating_point():
        raise TypeError(f"{what} must be floating point, not {values.dtype}")
    values = values.detach()
    finite = torch.isfinite(values).all(dim=1)
    if not finite.all():
        bad = (~finite).nonzero()[:, 0]
        raise ValueError(
            f"{what} has NaN or infinity in {len(bad)} of {len(values)} rows, the first is row {int(bad[0])}"
        )
    return values


def like(original: Any, tensor: Tensor) -> Any:
    """``tensor`` as NumPy where ``original`` is NumPy."""
    return tensor.cpu().numpy() if isinstance(original, np.ndarray) else tensor
