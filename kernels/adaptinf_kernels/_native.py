"""The C++/CUDA module ``adaptinf_kernels._C``: loading it, and the numbers that cross its boundary."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from adaptinf_kernels._bindings import digest
from adaptinf_kernels.errors import NotSupportedError

if TYPE_CHECKING:
    import torch


DTYPES = {
    "torch.int8": 0x008,
    "torch.int32": 0x020,
    "torch.int64": 0x040,
    "torch.float16": 0x210,
    "torch.float32": 0x220,
    "torch.float64": 0x240,
    "torch.bfloat16": 0x410,
}
"""DLPack's type code << 8 | bits."""


_SOURCES = Path(__file__).resolve().parents[2] / "csrc"
"""Those of a checkout; an installed wheel holds a module and a package that were built together, and none."""


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    """The module, or why there is none. Raises NotSupportedError where it is another one than the package calls."""
    try:
        module = importlib.import_module("adaptinf_kernels._C")
    except ImportError as error:
        return None, f"the native module does not load ({error}); build it with `pip install -e .`"
    if _SOURCES.is_dir() and module.build_info().get("bindings") != digest(_SOURCES):
        reason = f"its functions were built from other sources than {_SOURCES} has; rebuild it with `pip install -e .`"
        raise NotSupportedError("adaptinf_kernels._C is out of date", [reason])
    return module, ""


def native() -> ModuleType:
    """The native module. Raises NotSupportedError where it was not built, does not load or is out of date."""
    module, reason = _load()
    if module is None:
        raise NotSupportedError("adaptinf_kernels._C is not available", [reason])
    return module


def reasons_against(device: torch.device) -> list[str]:
    """Why the native module cannot serve tensors on ``device``."""
    module, reason = _load()
    if module is None:
        return [reason]
    if device.type == "cpu":
        return []
    if device.type == "cuda":
        cuda = module.build_info()["cuda"]
        return [] if cuda["built"] else [f"its CUDA part was not built: {cuda['reason']}"]
    return [f"it knows the devices cpu and cuda, not {device.type}"]


def view(tensor: torch.Tensor) -> tuple[int, list[int], list[int], int, int, int]:
    """``(pointer, shape, strides, dtype, device type, device index)`` of a tensor, in DLPack's numbers."""
    device_type = {"cpu": 1, "cuda": 2}[tensor.device.type]
    return (
        tensor.data_ptr(),
        list(tensor.shape),
        list(tensor.stride()),
        DTYPES[str(tensor.dtype)],
        device_type,
        tensor.device.index or 0,
    )


def rows_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a contiguous copy where its last stride is not 1, which the native module needs."""
    fits = tensor.numel() == 0 or tensor.shape[-1] == 1 or tensor.stride(-1) == 1
    return tensor if fits else tensor.contiguous()


def contiguous(value: Any) -> Any:
    """Tensors, in tuples too, detached and contiguous; anything else as it is.

    Their views are numbers only: whoever takes one keeps the tensor until the call is over.
    """
    if isinstance(value, tuple):
        return type(value)(*map(contiguous, value))
    return value.detach().contiguous() if hasattr(value, "contiguous") else value


def workspace(size: int, device: torch.device) -> torch.Tensor:
    """Bytes for kernels to use, aligned to 256 as CUDA's memory is."""
    import torch

    return torch.empty(size, dtype=torch.int8, device=device)


def as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """[rows, width] of a tensor [..., width], without gradients; the same memory wherever its strides allow it."""
    plain = rows_contiguous(tensor.detach())
    return plain.reshape(plain.shape[:-1].numel(), plain.shape[-1])


def reasons_against_float32(tensor: torch.Tensor) -> list[str]:
    """Why the native module cannot serve ``tensor`` where it takes float32 on the CPU alone."""
    import torch

    reasons = reasons_against(torch.device("cpu"))
    if tensor.device.type != "cpu":
        reasons.append("it runs on the CPU")
    if tensor.dtype != torch.float32:
        reasons.append(f"it takes float32, not {tensor.dtype}")
    return reasons


def threads() -> int:
    """How many threads torch would use."""
    import torch

    return torch.get_num_threads()


def stream(device: torch.device) -> int:
    """The current CUDA stream of ``device`` as a number; 0 on the CPU."""
    if device.type != "cuda":
        return 0
    import torch

    return torch.cuda.current_stream(device).cuda_stream


def build_info() -> dict[str, Any]:
    """What the native module was built with and what this processor has.

    Keys: ``native`` (bool), ``reason`` (why not, or ""), and where it loads ``compiler``, ``bindings`` (the digest of
    their sources), ``cuda`` (``built``, ``reason``, ``architectures``, ``toolkit``) and ``cpu`` (instruction sets:
    ``used``, ``levels``).
    """
    try:
        module, reason = _load()
    except NotSupportedError as error:
        return {"native": False, "reason": str(error)}
    if module is None:
        return {"native": False, "reason": reason}
    return {"native": True, "reason": "", **module.build_info()}
