"""``torch.ops.adaptinf_kernels.grad_sketch_vector``."""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Op
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.samples import check_bounds
from torch import Tensor

OP = Op("grad_sketch_vector", "triton", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "grad_sketch_vector(Tensor? factor, Tensor grad_out, Tensor cu_seqlens, str kind, int k, int seed, int nonzeros,"
    " int repetitions, int min_side, str name, str form, Tensor? first, Tensor? second, float[] numbers, bool norms,"
    " str impl) -> (Tensor, Tensor)"
)


@torch.library.impl(_library, "grad_sketch_vector", "CPU")
@torch.library.impl(_library, "grad_sketch_vector", "CUDA")
def _grad_sketch_vector(
    factor: Tensor | None, grad_out: Tensor, cu_seqlens: Tensor, *arguments: object
) -> tuple[Tensor, Tensor]:
    *fields, name, form, first, second, numbers, norms, impl = arguments
    sketch = Sketch(*fields)  # pyright: ignore[reportArgumentType]
    check_bounds(cu_seqlens, len(grad_out))
    state = (form, first, second, numbers)
    z, squares = OP(str(impl), factor, grad_out, cu_seqlens, sketch, name, state, norms)
    return z.mul_(sketch.scale), squares


@torch.library.register_fake("adaptinf_kernels::grad_sketch_vector", lib=_library)
def _grad_sketch_vector_fake(
    factor: Tensor | None, grad_out: Tensor, cu_seqlens: Tensor, kind: str, k: int, *arguments: object
) -> tuple[Tensor, Tensor]:
    samples, norms = cu_seqlens.shape[0] - 1, arguments[-2]
    z = grad_out.new_empty(samples, k, dtype=torch.float32)
    return z, grad_out.new_empty(samples if norms else 0, dtype=torch.float32)
