"""``project`` behind the interface that TRAK gives its projectors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.project.api import project
from adaptinf_kernels.sketch.definition import Sketch
from torch import Tensor


class TrakProjector:
    """A projector for ``trak.TRAKer(projector=...)`` and other callers of ``project(grads, model_id)``.

    It stores no matrix, takes any ``proj_dim``, bfloat16 as it is, and gives the same numbers on every device (TRAK's
    CUDA projector depends on the GPU's number of multiprocessors, and computes in float16).

    Args:
        sketch: which random matrix; ``Sketch("rademacher", k=proj_dim, seed=seed)`` is TRAK's distribution, "sjlt" has
            the same variance at a fraction of the cost.
        scale: False for TRAK's convention, entries +-1; True for inner products without bias.
        impl: see :func:`project`.

    Source: MadryLab/trak, ``AbstractProjector``; Park et al. 2023.
    """

    def __init__(self, sketch: Sketch, *, scale: bool = False, impl: Impl = "auto") -> None:
        self.sketch, self.scale = sketch, scale
        self.impl: Impl = impl

    def project(self, grads: Tensor | Mapping[str, Tensor], model_id: int) -> Tensor:
        """Float32 [B, k]. ``grads`` is [B, D], or parameter name -> [B, *shape]; each model id has its own matrices.

        Of a mapping each parameter has a matrix of its own, and the sum is returned: the gradients are never joined.
        """
        if isinstance(grads, Tensor):
            return project(grads, self.sketch, name=str(model_id), shape=None, scale=self.scale, impl=self.impl)
        if not grads:
            raise ValueError("grads is an empty mapping: there is nothing to project")
        parts = [self._project_one(grad, f"{model_id}/{name}") for name, grad in grads.items()]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def _project_one(self, grad: Tensor, name: str) -> Tensor:
        rows = grad.shape[1] if grad.dim() > 2 else 1
        weights = grad.reshape(grad.shape[0], rows, -1)
        return project(weights, self.sketch, name=name, scale=self.scale, impl=self.impl)

    def free_memory(self) -> None:
        """Nothing to free; TRAK calls it."""
