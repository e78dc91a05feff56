"""``torch.ops.adaptinf_kernels.project``."""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Op
from adaptinf_kernels.sketch.definition import Sketch
from torch import Tensor

OP = Op("project", "triton", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "project(Tensor gradients, int[2] shape, str kind, int k, int seed, int nonzeros, int repetitions, int min_side,"
    " str name, bool scale, str impl) -> Tensor"
)


@torch.library.impl(_library, "project", "CPU")
@torch.library.impl(_library, "project", "CUDA")
def _project(gradients: Tensor, shape: list[int], *arguments: object) -> Tensor:
    *fields, name, scale, impl = arguments
    sketch = Sketch(*fields)  # pyright: ignore[reportArgumentType]
    z = OP(str(impl), gradients, (shape[0], shape[1]), sketch, name)
    return z.mul_(sketch.scale) if scale else z


@torch.library.register_fake("adaptinf_kernels::project", lib=_library)
def _project_fake(gradients: Tensor, shape: list[int], kind: str, k: int, *arguments: object) -> Tensor:
    return gradients.new_empty(gradients.shape[0], k, dtype=torch.float32)
