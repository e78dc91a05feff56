"""``torch.ops.adaptinf_kernels.grad_sketch_linear``."""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Op
from adaptinf_kernels.sketch.definition import Sketch
from torch import Tensor

OP = Op("grad_sketch", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "grad_sketch_linear(Tensor x, Tensor grad_out, Tensor cu_seqlens, str kind, int k, int seed, int nonzeros,"
    " int repetitions, int min_side, str name, bool norms, str impl) -> (Tensor, Tensor)"
)


@torch.library.impl(_library, "grad_sketch_linear", "CPU")
@torch.library.impl(_library, "grad_sketch_linear", "CUDA")
def _grad_sketch_linear(x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, *arguments: object) -> tuple[Tensor, Tensor]:
    *fields, name, norms, impl = arguments
    sketch = Sketch(*fields)  # pyright: ignore[reportArgumentType]
    _check_segments(cu_seqlens, len(x))
    z, squares = OP(str(impl), x, grad_out, cu_seqlens, sketch, name, norms)
    return z.mul_(sketch.scale), squares


def _check_segments(cu_seqlens: Tensor, tokens: int) -> None:
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != tokens:
        raise ValueError(f"cu_seqlens must run from 0 to T={tokens}, not from {bounds[0]} to {bounds[-1]}")
    for index in range(len(bounds) - 1):
        if bounds[index] > bounds[index + 1]:
            raise ValueError(f"cu_seqlens must not fall, but segment {index} is {bounds[index]} to {bounds[index + 1]}")


@torch.library.register_fake("adaptinf_kernels::grad_sketch_linear", lib=_library)
def _grad_sketch_linear_fake(
    x: Tensor, grad_out: Tensor, cu_seqlens: Tensor, kind: str, k: int, *arguments: object
) -> tuple[Tensor, Tensor]:
    samples, norms = cu_seqlens.shape[0] - 1, arguments[-2]
    z = x.new_empty(samples, k, dtype=torch.float32)
    return z, x.new_empty(samples if norms else 0, dtype=torch.float32)
