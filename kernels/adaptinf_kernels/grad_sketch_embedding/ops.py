"""``torch.ops.adaptinf_kernels.grad_sketch_embedding``."""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Op
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.samples import check_bounds
from torch import Tensor

OP = Op("grad_sketch_embedding", "triton", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "grad_sketch_embedding(Tensor ids, Tensor grad_out, Tensor cu_seqlens, str kind, int k, int seed, int nonzeros,"
    " int repetitions, int min_side, str name, int vocabulary, int padding_idx, bool norms, str impl)"
    " -> (Tensor, Tensor)"
)


@torch.library.impl(_library, "grad_sketch_embedding", "CPU")
@torch.library.impl(_library, "grad_sketch_embedding", "CUDA")
def _grad_sketch_embedding(
    ids: Tensor, grad_out: Tensor, cu_seqlens: Tensor, *arguments: object
) -> tuple[Tensor, Tensor]:
    *fields, name, vocabulary, padding_idx, norms, impl = arguments
    sketch = Sketch(*fields)  # pyright: ignore[reportArgumentType]
    check_bounds(cu_seqlens, len(ids))
    if ids.device.type == "cpu" and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < int(str(vocabulary)):
        token = int(((ids < 0) | (ids >= vocabulary)).nonzero()[0])  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"ids[{token}]={int(ids[token])} is no row of an embedding of {vocabulary}")
    z, squares = OP(str(impl), ids, grad_out, cu_seqlens, sketch, name, vocabulary, padding_idx, norms)
    return z.mul_(sketch.scale), squares


@torch.library.register_fake("adaptinf_kernels::grad_sketch_embedding", lib=_library)
def _grad_sketch_embedding_fake(
    ids: Tensor, grad_out: Tensor, cu_seqlens: Tensor, kind: str, k: int, *arguments: object
) -> tuple[Tensor, Tensor]:
    samples, norms = cu_seqlens.shape[0] - 1, arguments[-2]
    z = grad_out.new_empty(samples, k, dtype=torch.float32)
    return z, grad_out.new_empty(samples if norms else 0, dtype=torch.float32)
