"""What the native implementations of ``project`` and ``grad_sketch`` share: limits, and arguments as plain values."""

from __future__ import annotations

import torch
from adaptinf_kernels import _native
from adaptinf_kernels.sketch.definition import Sketch, philox_key
from adaptinf_kernels.sketch.preconditioner import State
from adaptinf_kernels.sketch.tables import xorts_codes
from torch import Tensor

CPU_LEVEL = ""
"""The instruction set that the native module uses: "portable", "avx2", "avx512", or "" for the best. Tests set it."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def reasons_against(sketch: Sketch, *tensors: Tensor | None) -> list[str]:
    """Why the native module cannot sketch these tensors."""
    reasons = tensor_reasons_against(*tensors)
    if sketch.kind == "kron":
        reasons.append("kind 'kron' is two matrix products, which torch does")
    return reasons


def tensor_reasons_against(*tensors: Tensor | None) -> list[str]:
    """Why the native module cannot compute with these tensors."""
    given = [tensor for tensor in tensors if tensor is not None]
    reasons = _native.reasons_against(torch.device("cpu"))
    if any(tensor.device.type != "cpu" for tensor in given):
        reasons.append("it runs on the CPU")
    dtypes = sorted({str(tensor.dtype) for tensor in given if tensor.dtype not in _DTYPES})
    if dtypes:
        reasons.append(f"it takes float32, float16 and bfloat16, not {', '.join(dtypes)}")
    return reasons


def sketch_arguments(sketch: Sketch) -> tuple[str, int, int, int, int]:
    """(kind, k, slices, rows of a tile, columns of a tile)."""
    rows, columns = sketch.tile if sketch.kind == "sjlt" else (1, sketch.k)
    return sketch.kind, sketch.k, sketch.nonzeros, rows, columns


class Key:
    """What a parameter's random matrix is made from, for the native module; holds what its views point to."""

    def __init__(self, sketch: Sketch, name: str, rows: int, columns: int) -> None:
        self.argument: int | tuple[object, ...] = philox_key(sketch.seed, name)
        if sketch.kind == "xorts":
            sides = enumerate((rows, columns))
            self._held = [xorts_codes(sketch, name, side, size, torch.device("cpu")) for side, size in sides]
            self.argument = tuple(map(_native.view, self._held))


class Moments:
    """A preconditioner's state for the native module; holds what its views point to."""

    def __init__(self, state: State) -> None:
        form, first, second, numbers = state
        self._held = [None if moment is None else _readable(moment) for moment in (first, second)]
        views = (None if moment is None else _native.view(moment) for moment in self._held)
        self.arguments = (form, *views, numbers)


def _readable(moment: Tensor) -> Tensor:
    return _native.rows_contiguous(moment if moment.dtype in _DTYPES else moment.float())


def results(samples: int, sketch: Sketch, norms: bool) -> tuple[Tensor, Tensor]:
    """Memory for ([B, k], squared norms [B] or [0])."""
    return torch.empty(samples, sketch.k), torch.empty(samples if norms else 0)
