"""Random signs as a function of (seed, name, row, column)."""

from __future__ import annotations

import adaptinf_kernels.signs.ops  # noqa: F401  (registers the op)
import torch
from adaptinf_kernels._dispatch import Impl
from torch import Tensor

__all__ = ["signs"]


def signs(
    seed: int,
    name: str,
    rows: int | range,
    columns: int | range,
    *,
    domain: int = 0,
    device: torch.device | str = "cpu",
    impl: Impl = "auto",
) -> Tensor:
    """int8 [len(rows), len(columns)] of +1 and -1: a block of an infinite matrix of independent fair signs.

    Entry (i, j) is -1 where bit ``j mod 32`` of word ``(j mod 128) div 32`` of Philox4x32-10 at counter
    ``(j div 128 mod 2^32, j div 128 div 2^32, i, domain)`` is set; the key is the BLAKE2b-64 of seed and name
    (``sketch.definition.philox_key``). All implementations give the same bits, on every device.

    Args:
        seed: 0 to 2^63 - 1.
        name: of the parameter; different names give independent matrices.
        rows: how many from 0 on, or a range of step 1; ids under 2^32.
        columns: likewise; ids under 2^63 - 128.
        domain: matrices of one (seed, name) for different purposes; 0 is that of ``Sketch(kind="rademacher")``.
        device: where the result lies.
        impl: "auto", "reference" or "native".

    Raises:
        ValueError: an argument is out of range.
        NotSupportedError: ``impl`` cannot run here.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed} must be from 0 to 2^63 - 1")
    if not 0 <= domain < 2**32:
        raise ValueError(f"domain={domain} must be from 0 to 2^32 - 1")
    row, n_rows = _span("rows", rows, 2**32)
    column, n_columns = _span("columns", columns, 2**63 - 128)
    return torch.ops.adaptinf_kernels.signs(
        seed, name, domain, row, n_rows, column, n_columns, torch.device(device), impl
    )


def _span(what: str, ids: int | range, limit: int) -> tuple[int, int]:
    span = range(ids) if isinstance(ids, int) else ids
    if isinstance(ids, int) and ids < 0:
        raise ValueError(f"{what}={ids} is negative")
    if span.step != 1 or span.start < 0 or span.stop > limit:
        raise ValueError(f"{what}={ids} must be a range of step 1 within 0 to {limit}")
    return span.start, len(span)
