"""``torch.ops.adaptinf_kernels.grad_sketch_lora``."""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Op
from adaptinf_kernels.sketch.definition import Sketch
from adaptinf_kernels.sketch.samples import check_bounds
from torch import Tensor

OP = Op("grad_sketch_lora", "triton", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "grad_sketch_lora(Tensor x, Tensor grad_out, Tensor lora_a, Tensor lora_b, Tensor cu_seqlens, str kind, int k,"
    " int seed, int nonzeros, int repetitions, int min_side, str name_a, str name_b, float scaling, Tensor? magnitude,"
    " str form_a, Tensor? first_a, Tensor? second_a, float[] numbers_a,"
    " str form_b, Tensor? first_b, Tensor? second_b, float[] numbers_b, bool norms, str impl) -> (Tensor, Tensor)"
)


@torch.library.impl(_library, "grad_sketch_lora", "CPU")
@torch.library.impl(_library, "grad_sketch_lora", "CUDA")
def _grad_sketch_lora(
    x: Tensor, grad_out: Tensor, lora_a: Tensor, lora_b: Tensor, cu_seqlens: Tensor, *arguments: object
) -> tuple[Tensor, Tensor]:
    fields, (name_a, name_b, scaling, magnitude) = arguments[:6], arguments[6:10]
    state_a, state_b, (norms, impl) = arguments[10:14], arguments[14:18], arguments[18:]
    sketch = Sketch(*fields)  # pyright: ignore[reportArgumentType]
    check_bounds(cu_seqlens, len(x))
    z, squares = OP(
        str(impl), x, grad_out, lora_a, lora_b, cu_seqlens, sketch, (name_a, name_b), scaling, magnitude,
        (state_a, state_b), norms,
    )  # fmt: skip
    return z.mul_(sketch.scale), squares


@torch.library.register_fake("adaptinf_kernels::grad_sketch_lora", lib=_library)
def _grad_sketch_lora_fake(
    x: Tensor,
    grad_out: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    cu_seqlens: Tensor,
    kind: str,
    k: int,
    *arguments: object,
) -> tuple[Tensor, Tensor]:
    samples, norms = cu_seqlens.shape[0] - 1, arguments[-2]
    z = x.new_empty(samples, k, dtype=torch.float32)
    return z, x.new_empty(samples if norms else 0, dtype=torch.float32)
