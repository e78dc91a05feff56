"""Sketches of gradients that exist."""

from __future__ import annotations

import adaptinf_kernels.project.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._arrays import Array, as_tensor
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.sketch.definition import Sketch
from torch import Tensor


def project(
    gradients: Array,
    sketch: Sketch,
    *,
    name: str = "",
    shape: tuple[int, int] | None = None,
    scale: bool = True,
    impl: Impl = "auto",
) -> Tensor:
    """Sketch each row: ``z_b = S g_b`` with S the matrix of ``sketch`` for the parameter ``name``; float32 [B, k].

    Equals ``grad_sketch_linear`` on the same per-sample gradients up to rounding. A row's bits do not depend on the
    other rows. Sums are float32 (float64 for float64 input). Not differentiable.

    Args:
        gradients: [B, D] or [B, d_out, d_in], floating point, any strides; column ``r d_in + c`` is entry (r, c).
        sketch: the random matrix.
        name: the parameter's name; different names give independent matrices.
        shape: (d_out, d_in) of the parameter where gradients are [B, D]; left out, the parameter is a vector [1, D].
            Kinds ``xorts`` and ``kron`` need it, ``sjlt`` has another matrix for another shape, ``rademacher`` has not.
        scale: False leaves the entries at +-1 (TRAK's convention), so that inner products are ``scale^-2`` too large.
        impl: "auto", "reference", "native" or "triton".

    Raises:
        ValueError: shapes do not fit.
        TypeError: ``gradients`` is not floating point.
        NotSupportedError: ``impl`` cannot run on these inputs.
    """
    gradients = as_tensor("gradients", gradients)
    if gradients.dim() not in (2, 3):
        raise ValueError(f"gradients must be [B, D] or [B, d_out, d_in], not {list(gradients.shape)}")
    if not gradients.is_floating_point():
        raise TypeError(f"gradients must be floating point, not {gradients.dtype}")
    flat = gradients.flatten(1)
    if shape is None:
        if gradients.dim() == 3:
            shape = (gradients.shape[1], gradients.shape[2])
        elif sketch.kind in ("xorts", "kron"):
            raise ValueError(f"kind {sketch.kind!r} treats a weight's rows and columns apart: give shape=(d_out, d_in)")
        else:
            shape = (1, flat.shape[1])
    if min(shape) < 0 or shape[0] * shape[1] != flat.shape[1]:
        raise ValueError(f"shape={tuple(shape)} does not have the {flat.shape[1]} entries of a row of gradients")
    return torch.ops.adaptinf_kernels.project(flat, list(shape), *sketch.arguments, name, scale, impl)
