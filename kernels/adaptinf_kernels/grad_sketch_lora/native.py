"""Kinds sjlt, rademacher and xorts by the native module (``csrc/grad_sketch/``), on the CPU."""

from __future__ import annotations

from adaptinf_kernels import _native
from adaptinf_kernels.sketch import native
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.preconditioner import State
from torch import Tensor


def not_supported_reasons(
    x: Tensor,
    grad_out: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    names: tuple[str, str],
    scaling: float,
    magnitude: Tensor | None,
    states: tuple[State, State],
    norms: bool,
) -> list[str]:
    """Not kron, not float64, not other devices than the CPU."""
    return native.reasons_against(sketch, x, grad_out, lora_a, lora_b, magnitude)


def run(
    x: Tensor,
    grad_out: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    names: tuple[str, str],
    scaling: float,
    magnitude: Tensor | None,
    states: tuple[State, State],
    norms: bool,
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]), both float32."""
    z, squares = native.results(len(cu_seqlens) - 1, sketch, norms)
    matrices = [_native.rows_contiguous(tensor) for tensor in (x, grad_out, lora_a, lora_b)]
    row = None if magnitude is None else magnitude.contiguous()[None]
    shapes = (lora_a.shape, lora_b.shape)
    keys = [native.Key(sketch, name, *shape) for name, shape in zip(names, shapes, strict=True)]
    moments = [native.Moments(state) for state in states]
    _native.native().grad_sketch_lora(
        *map(_native.view, matrices),
        cu_seqlens.tolist(),
        native.sketch_arguments(sketch),
        *(key.argument for key in keys),
        scaling,
        None if row is None else _native.view(row),
        moments[0].arguments,
        moments[1].arguments,
        _native.view(z),
        _native.view(squares),
        _native.threads(),
        native.CPU_LEVEL,
    )
    return z, squares
