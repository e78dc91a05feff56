"""Triton: sjlt by ``triton_kernels.py``, xorts and rademacher by ``triton_rows.py``.

Norms by the sums of ``grad_sketch_vector`` over tokens sorted by their id.
"""

from __future__ import annotations

import torch
from adaptinf_kernels._triton import reasons_against
from adaptinf_kernels.sketch.definition import Sketch, philox_key
from adaptinf_kernels.sketch.preconditioner import NONE
from adaptinf_kernels.sketch.triton_limits import row_limits
from torch import Tensor


def not_supported_reasons(
    ids: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    vocabulary: int,
    padding_idx: int,
    norms: bool,
) -> list[str]:
    """Kinds, sizes, device and dtype."""
    return [*reasons_against(grad_out), *row_limits(sketch)]


def run(
    ids: Tensor,
    grad_out: Tensor,
    cu_seqlens: Tensor,
    sketch: Sketch,
    name: str,
    vocabulary: int,
    padding_idx: int,
    norms: bool,
) -> tuple[Tensor, Tensor]:
    """([B, k] with entries of +-1, squared norms [B] or [0]), both float32."""
    from adaptinf_kernels.grad_sketch_embedding import triton_kernels, triton_rows

    if sketch.kind == "sjlt":
        z = triton_kernels.embedding_sjlt(ids, grad_out, cu_seqlens, sketch, philox_key(sketch.seed, name), padding_idx)
    else:
        rows = triton_rows.rows_xorts if sketch.kind == "xorts" else triton_rows.rows_dense
        z = rows(ids, grad_out, cu_seqlens, sketch, name, vocabulary, padding_idx)
    return z, _squared_norms(ids, grad_out, cu_seqlens, padding_idx) if norms else z.new_empty(0)


def _squared_norms(ids: Tensor, grad_out: Tensor, cu_seqlens: Tensor, padding: int) -> Tensor:
    """[B]: tokens of one sample and id made neighbours, their gradients summed, the squares of the sums added.

    Equal tokens keep their order and nothing waits for the device: there are as many runs as tokens, the last ones
    empty.
    """
    from adaptinf_kernels.grad_sketch_vector.triton_kernels import sample_sums

    tokens = len(ids)
    if not tokens:
        return grad_out.new_zeros(len(cu_seqlens) - 1, dtype=torch.float32)
    cu_seqlens, places = cu_seqlens.long().contiguous(), torch.arange(tokens + 1, device=ids.device)
    sample = torch.searchsorted(cu_seqlens, places[:-1], right=True)
    order = ids.argsort(stable=True)
    order = order[sample[order].argsort(stable=True)]
    ids, sample = ids[order], sample[order]
    changes = (ids[1:] != ids[:-1]) | (sample[1:] != sample[:-1])
    run = torch.nn.functional.pad(changes.cumsum(0), (1, 0))
    bounds = torch.searchsorted(run, places)
    _, squares = sample_sums(None, grad_out[order], bounds, NONE, True)
    squares = squares.where(ids[bounds[:-1].clamp(max=tokens - 1)] != padding, 0.0)
    runs = torch.cat([run, run[-1:] + 1])[cu_seqlens.clamp(0, tokens)]
    return sample_sums(None, squares[:, None], runs, NONE, False)[0][:, 0]
