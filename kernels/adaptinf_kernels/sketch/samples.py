"""What the gradient sketches share around the computation: checks of the samples' bounds, and what they return."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class GradSketch(NamedTuple):
    """``sketch`` float32 [B, k]; ``squared_norms`` float32 [B] of the gradients themselves, None if not asked for."""

    sketch: Tensor
    squared_norms: Tensor | None


def check_rows(**tensors: Tensor) -> None:
    """Floating-point matrices [T, any] with equally many rows on one device; the names are for the message."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.dim() != 2:
            raise ValueError(f"{name} must be a matrix [T, d], not {list(tensor.shape)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, not {tensor.dtype}")
        if tensor.shape[0] != first.shape[0]:
            raise ValueError(
                f"{first_name} and {name} must have the same tokens, not {list(first.shape)} and {list(tensor.shape)}"
            )
        if tensor.device != first.device:
            raise ValueError(f"{first_name} is on {first.device} and {name} on {tensor.device}")


def check_cu_seqlens(cu_seqlens: Tensor, device: torch.device) -> None:
    """The form of ``cu_seqlens``; its values are checked by :func:`check_bounds`."""
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64, not {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"cu_seqlens must be [B + 1], not {list(cu_seqlens.shape)}")
    if cu_seqlens.device != device:
        raise ValueError(f"cu_seqlens is on {cu_seqlens.device}, the tokens are on {device}")


def check_bounds(cu_seqlens: Tensor, tokens: int) -> None:
    """Segments that run from 0 to ``tokens`` and never fall.

    Values on an accelerator are not read, which would wait for it: there the kernels clamp them to the tokens.
    """
    if cu_seqlens.device.type != "cpu":
        return
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != tokens:
        raise ValueError(f"cu_seqlens must run from 0 to T={tokens}, not from {bounds[0]} to {bounds[-1]}")
    for index in range(len(bounds) - 1):
        if bounds[index] > bounds[index + 1]:
            raise ValueError(f"cu_seqlens must not fall, but segment {index} is {bounds[index]} to {bounds[index + 1]}")


def deliver(z: Tensor, squares: Tensor, add_to: Tensor | None, norms: bool) -> GradSketch:
    """``z``, or ``add_to`` with ``z`` added in place, and the norms."""
    if add_to is not None:
        if add_to.shape != z.shape or add_to.dtype != z.dtype or add_to.device != z.device:
            raise ValueError(
                f"add_to must be float32 {list(z.shape)} on {z.device}, "
                f"not {add_to.dtype} {list(add_to.shape)} on {add_to.device}"
            )
        z = add_to.add_(z)
    return GradSketch(z, squares if norms else None)
