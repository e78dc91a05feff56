"""Triton: sjlt without norms; see ``triton_kernels.py``."""

from __future__ import annotations

from adaptinf_kernels._triton import reasons_against
from adaptinf_kernels.sketch.definition import Sketch, philox_key
from adaptinf_kernels.sketch.triton_limits import slice_limits
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
    """Kinds, sizes, device and dtype; norms, for which the tokens of one id would have to meet."""
    reasons = reasons_against(grad_out)
    if norms:
        reasons.append("it sketches token by token and never sums the gradient of an id, which a norm needs")
    if sketch.kind != "sjlt":
        return [*reasons, f"it has no kernel for kind {sketch.kind!r}"]
    return [*reasons, *slice_limits(sketch)]


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
    """([B, k] with entries of +-1, no norms), float32."""
    from adaptinf_kernels.grad_sketch_embedding.triton_kernels import embedding_sjlt

    key = philox_key(sketch.seed, name)
    return embedding_sjlt(ids, grad_out, cu_seqlens, sketch, key, padding_idx), grad_out.new_empty(0).float()
