"""Kinds sjlt, rademacher and xorts by the native module (``csrc/grad_sketch/``), on the CPU."""

from __future__ import annotations

from adaptinf_kernels import _native
from adaptinf_kernels.sketch import native
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import State
from torch import Tensor


def not_supported_reasons(
    factor: Tensor | None,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    state: State,
    norms: bool,
) -> list[str]:
    """Not kron, not float64, not other devices than the CPU."""
    return native.reasons_against(sketch, factor, grad_out)


def run(
    factor: Tensor | None,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    state: State,
    norms: bool,
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]), both float32."""
    z, squares = native.results(len(cu_seqlens) - 1, sketch, norms)
    grad_out = _native.rows_contiguous(grad_out)
    factor = None if factor is None else _native.rows_contiguous(factor)
    key = native.Key(sketch, name, 1, grad_out.shape[1])
    moments = native.Moments(state)
    _native.native().grad_sketch_vector(
        None if factor is None else _native.view(factor),
        _native.view(grad_out),
        cu_seqlens.tolist(),
        native.sketch_arguments(sketch),
        key.argument,
        moments.arguments,
        _native.view(z),
        _native.view(squares),
        _native.threads(),
        native.CPU_LEVEL,
    )
    return z, squares
