"""Kinds sjlt, rademacher and xorts by the native module (``csrc/grad_sketch/``), on the CPU."""

from __future__ import annotations

from adaptinf_kernels import _native
from adaptinf_kernels.sketch import native
from adaptinf_kernels.sketch.definition import Sketch
from torch import Tensor


def not_supported_reasons(
    ids: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    vocabulary: int,
    padding_idx: int,
    norms: bool,
) -> list[str]:
    """Not kron, not float64, not other devices than the CPU."""
    return native.reasons_against(sketch, grad_out)


def run(
    ids: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    vocabulary: int,
    padding_idx: int,
    norms: bool,
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]), both float32."""
    z, squares = native.results(len(cu_seqlens) - 1, sketch, norms)
    grad_out = _native.rows_contiguous(grad_out)
    key = native.Key(sketch, name, vocabulary, grad_out.shape[1])
    _native.native().grad_sketch_embedding(
        ids.tolist(),
        _native.view(grad_out),
        cu_seqlens.tolist(),
        native.sketch_arguments(sketch),
        key.argument,
        padding_idx,
        _native.view(z),
        _native.view(squares),
        _native.threads(),
        native.CPU_LEVEL,
    )
    return z, squares
