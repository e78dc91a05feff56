"""``torch.ops.adaptinf_kernels.semdedup``.

Everything is by place: row ``rows[p]`` of ``x`` is in place p; the places of cluster c are ``bounds[c]`` to
``bounds[c + 1]``, in order of rank; ``ranks[p]`` is the place's position among all rows.

``keep`` is "reference", "greedy" or "components" with at least one threshold (a row goes where its similarity exceeds
it), or "farthest" with ``budgets``: int64 [C], or a number without a dimension for all clusters together. Found are,
for each of E thresholds (E = 1 for "farthest"), ``kept`` bool, ``before`` int64 (a place, -1 for none) and
``similarity`` float64 (NaN for none), each [E, N].
"""

from __future__ import annotations

import torch
from adaptinf_kernels._dispatch import Op
from torch import Tensor

OP = Op("semdedup", "native", "reference")

_library = torch.library.Library("adaptinf_kernels", "FRAGMENT")
_library.define(
    "semdedup(Tensor x, Tensor rows, Tensor bounds, Tensor ranks, str keep, float[] thresholds, Tensor? budgets,"
    " str impl) -> (Tensor kept, Tensor before, Tensor similarity)"
)


@torch.library.impl(_library, "semdedup", "CPU")
@torch.library.impl(_library, "semdedup", "CUDA")
def _semdedup(
    x: Tensor,
    rows: Tensor,
    bounds: Tensor,
    ranks: Tensor,
    keep: str,
    thresholds: list[float],
    budgets: Tensor | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return OP(impl, x, rows, bounds, ranks, keep, list(thresholds), budgets)


@torch.library.register_fake("adaptinf_kernels::semdedup", lib=_library)
def _semdedup_fake(
    x: Tensor,
    rows: Tensor,
    bounds: Tensor,
    ranks: Tensor,
    keep: str,
    thresholds: list[float],
    budgets: Tensor | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = max(1, len(thresholds)), rows.shape[0]
    kept, before = rows.new_empty(shape, dtype=torch.bool), rows.new_empty(shape)
    return kept, before, rows.new_empty(shape, dtype=torch.float64)
