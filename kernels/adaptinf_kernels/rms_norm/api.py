"""Root-mean-square normalisation."""

from __future__ import annotations

import adaptinf_kernels.rms_norm.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._dispatch import Impl
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, *, impl: Impl = "auto") -> Tensor:
    """``weight * x / sqrt(mean(x^2) + epsilon)``, the mean over the last dimension, in one pass over memory.

    In float32 (float64 for float64 input), rounded to the dtype of ``x``. A row's bits depend on the row alone.
    Differentiable in x and weight, once.

    Args:
        x: [..., d], floating point, any strides.
        weight: [d], of the same dtype.
        epsilon: not negative.
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: shapes do not fit, or epsilon is negative.
        TypeError: a dtype does not fit.
        NotSupportedError: ``impl`` cannot run on these inputs.

    Source: Zhang and Sennrich 2019, Root Mean Square Layer Normalization.
    """
    if not x.is_floating_point() or weight.dtype != x.dtype:
        raise TypeError(f"x is {x.dtype} and weight {weight.dtype}; both must be of one floating-point dtype")
    if not x.dim() or weight.shape != x.shape[-1:] or weight.device != x.device:
        raise ValueError(
            f"x is {list(x.shape)} on {x.device} and weight {list(weight.shape)} on {weight.device}; they must be "
            "[..., d] and [d]"
        )
    if not epsilon >= 0:
        raise ValueError(f"epsilon must not be negative: {epsilon}")
    return torch.ops.adaptinf_kernels.rms_norm(x, weight, float(epsilon), impl)
