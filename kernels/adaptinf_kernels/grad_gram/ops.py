"""``torch.ops.adaptinf_kernels.grad_gram``."""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Op
from adaptinf_kernels.sketch.samples import check_bounds
from torch import Tensor

OP = Op("grad_gram", "triton", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "grad_gram(Tensor x, Tensor grad_out, Tensor cu_seqlens, Tensor? other_x, Tensor? other_grad_out,"
    " Tensor? other_cu_seqlens, str impl) -> Tensor"
)


@torch.library.impl(_library, "grad_gram", "CPU")
@torch.library.impl(_library, "grad_gram", "CUDA")
def _grad_gram(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    other_x: Tensor | None,
    other_grad_out: Tensor | None,
    other_cu_seqlens: Tensor | None,
    impl: str,
) -> Tensor:
    check_bounds(cu_seqlens, len(x))
    if other_x is not None and other_cu_seqlens is not None:
        check_bounds(other_cu_seqlens, len(other_x))
    return OP(impl, x, grad_out, cu_seqlens, other_x, other_grad_out, other_cu_seqlens)


@torch.library.register_fake("adaptinf_kernels::grad_gram", lib=_library)
def _grad_gram_fake(
    x: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    other_x: Tensor | None,
    other_grad_out: Tensor | None,
    other_cu_seqlens: Tensor | None,
    impl: str,
) -> Tensor:
    columns = cu_seqlens if other_cu_seqlens is None else other_cu_seqlens
    return x.new_empty(cu_seqlens.shape[0] - 1, columns.shape[0] - 1, dtype=torch.float32)
