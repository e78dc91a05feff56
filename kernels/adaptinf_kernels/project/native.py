"""Kinds sjlt, rademacher and xorts by the native module (``csrc/grad_sketch/``), on the CPU."""

from __future__ import annotations

from adaptinf_kernels import _native
from adaptinf_kernels.sketch import native
from adaptinf_kernels.sketch.definition import Sketch
from torch import Tensor


def not_supported_reasons(gradients: Tensor, shape: tuple[int, int], sketch: Sketch, name: str) -> list[str]:
    """Not kron, not float64, not other devices than the CPU."""
    return native.reasons_against(sketch, gradients)


def run(gradients: Tensor, shape: tuple[int, int], sketch: Sketch, name: str) -> Tensor:
    """[B, D] -> float32 [B, k] with entries of +-1."""
    z, _ = native.results(len(gradients), sketch, norms=False)
    gradients = _native.rows_contiguous(gradients)
    key = native.Key(sketch, name, *shape)
    _native.native().project(
        _native.view(gradients),
        *shape,
        native.sketch_arguments(sketch),
        key.argument,
        _native.view(z),
        _native.threads(),
        native.CPU_LEVEL,
    )
    return z
