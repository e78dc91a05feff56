"""Another adapter for every row of a batch, in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from adaptinf.routing.adapters import Adapter, Factors


@contextmanager
def dispatched(model: nn.Module, rows: Sequence[str | None], adapters: Mapping[str, Adapter]) -> Iterator[None]:
    """For the context, row i of every batch of ``len(rows)`` rows goes through the adapter ``rows[i]``, or none;
    of a batch of n times as many rows each run of n, such as a request's beams.

    ``y_i = W x_i + (x_i A_i) B_i``: the factors of the rows are gathered once, as [N, in, r] and [N, r, out] with zeros
    up to the largest rank, so that a module runs two batched products however many adapters there are. Rows that all
    have one adapter run two plain ones.

    Measured against peft's ``adapter_names`` (a pair of products and two copies an adapter and module) and against the
    factors of all adapters side by side with a mask: docs/measured-facts.md.
    """
    used = sorted({row for row in rows if row is not None})
    targets = sorted({name for one in used for name in adapters[one].factors})
    with ExitStack() as stack:
        for name in targets:
            module = model.get_submodule(name)
            factors = _gathered([None if row is None else adapters[row].factors.get(name) for row in rows])
            before = vars(module).get("forward")
            module.forward = partial(_forward, before or partial(type(module).forward, module), factors)
            stack.callback(_restore, module, before)
        yield


def _gathered(rows: Sequence[Factors | None]) -> Factors:
    """[in, r] and [r, out] where all rows have the same factors, else [N, in, r] and [N, r, out]."""
    first = next(row for row in rows if row is not None)
    if all(row is first for row in rows):
        return first
    rank = max(row.b.shape[0] for row in rows if row is not None)
    a = first.a.new_zeros(len(rows), first.a.shape[0], rank)
    b = first.b.new_zeros(len(rows), rank, first.b.shape[1])
    for i, row in enumerate(rows):
        if row is not None:
            a[i, :, : row.a.shape[1]] = row.a
            b[i, : row.b.shape[0]] = row.b
    return Factors(a, b)


def _forward(base: partial[Tensor], factors: Factors, x: Tensor) -> Tensor:
    y = base(x)
    a, b = factors.a.to(x.dtype), factors.b.to(x.dtype)
    if a.dim() == 2:
        return y + (x @ a) @ b
    # Some models hand over all tokens in a row, and generation puts the beams of a request beside each other.
    by_row = x.reshape(len(a), -1, x.shape[-1])
    return y + torch.bmm(torch.bmm(by_row, a), b).reshape(y.shape)


def _restore(module: nn.Module, before: object) -> None:
    if before is None:
        del module.forward
    else:
        module.forward = before  # pyright: ignore[reportAttributeAccessIssue]
