"""The gate of a gated feed-forward layer."""

from __future__ import annotations

import adaptinf_kernels.swiglu.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._dispatch import Impl
from torch import Tensor


def swiglu(gate: Tensor, up: Tensor, *, impl: Impl = "auto") -> Tensor:
    """``silu(gate) * up`` with ``silu(x) = x / (1 + exp(-x))``, entry by entry, in one pass over memory.

    In float32 (float64 for float64 input), rounded to the dtype of ``gate``. Backward reads gate, up and the gradient
    once and writes both gradients. Differentiable once.

    Args:
        gate: [..., m], floating point, any strides.
        up: of the same shape and dtype.
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: shapes do not fit.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.

    Source: Shazeer 2020, GLU Variants Improve Transformer.
    """
    if not gate.is_floating_point() or up.dtype != gate.dtype:
        raise TypeError(f"gate is {gate.dtype} and up {up.dtype}; both must be of one floating-point dtype")
    if gate.shape != up.shape or gate.device != up.device or not gate.dim():
        raise ValueError(
            f"gate is {list(gate.shape)} on {gate.device} and up {list(up.shape)} on {up.device}; both must be the "
            "same [..., m]"
        )
    return torch.ops.adaptinf_kernels.swiglu(gate, up, impl)
