"""De-duplication of one cluster: against SemDeDup's own rule written in torch, as its released code does it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from adaptinf_kernels import semdedup
from torch import Tensor

from benchmarks.case import Case, Contender, Outputs, Setting, Workload
from benchmarks.cases.common import cost, implementations, normal
from benchmarks.gate import Close, Equal

_EPS = 0.05
_BLOCK = 512
_MOST_FOR_A_MATRIX = 100_000
"""Rows whose matrix of similarities fits into a GPU's memory."""


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def released(x: Tensor) -> Tensor:
    """M of unit rows, 0 where nothing before is alike."""
    similar = x @ x.T
    similar.fill_diagonal_(0)
    return torch.triu(similar, diagonal=1).max(dim=0).values


def in_blocks(x: Tensor, columns: int = 4096) -> Tensor:
    """The same without the matrix: tiles above the diagonal, and the running maximum."""
    most = x.new_zeros(len(x))
    for start in range(0, len(x), _BLOCK):
        rows = x[start : start + _BLOCK]
        for first in range(start, len(x), columns):
            tile = rows @ x[first : first + columns].T
            if first < start + _BLOCK:
                tile.triu_(start - first + 1)
            torch.maximum(most[first : first + columns], tile.amax(0), out=most[first : first + columns])
    return most


def _in_blocks_of_floats(x: Tensor) -> Callable[[], Tensor]:
    wide = x.float()
    return lambda: in_blocks(wide)


def _named(value: Tensor) -> Outputs:
    return {"similarity": value}


def _reference(setting: Setting, *, n: int, d: int) -> Workload:
    if setting.tiny:
        n, d = n // 100, d // 8
    kinds = normal(setting, n // 100, d)
    x = _unit(kinds[torch.arange(n, device=setting.device) % len(kinds)] + normal(setting, n, d, seed=1))
    gate = Close(
        lambda: _named(in_blocks(_unit(x.double()))),
        lambda: _named(in_blocks(x)),
        required=["similarity"],
        rounding=x.dtype,
    )

    def run(impl: str) -> Tensor:
        return semdedup(x, eps=_EPS, keep="reference", impl=impl).max_similarity

    def defined(value: Tensor) -> Outputs:
        return _named(value.nan_to_num(0).clamp_min(0))  # as the released code

    whole, half = 2.0 * n * n * d, 1.0 * n * n * d
    contenders = (
        []
        if n > _MOST_FOR_A_MATRIX
        else [
            Contender("torch", lambda: lambda: released(x), gate, _named, cost=cost(whole, [x], 4.0 * n, x.dtype)),
        ]
    )
    if x.dtype != torch.float32:
        contenders.append(Contender("torch, blocks, float32", lambda: _in_blocks_of_floats(x), gate, _named))
    contenders += [
        Contender("torch, blocks", lambda: lambda: in_blocks(x), gate, _named, cost=cost(half, [x], 4.0 * n, x.dtype)),
        *implementations(setting, run, gate, defined, cost=cost(half, [x], 4.0 * n, x.dtype), graph=False),
    ]
    return Workload({"n": n, "d": d, "dtype": str(x.dtype)}, tuple(contenders), samples=n)


def _greedy(setting: Setting, *, n: int, d: int) -> Workload:
    """Copies of one row with noise: greedy keeps the first."""
    if setting.tiny:
        n, d = n // 100, d // 8
    x = _unit(normal(setting, 1, d) + 0.05 * normal(setting, n, d, seed=1))
    gate = Equal(lambda: {"kept": torch.arange(n) < 1})

    def kept(value: Tensor) -> Outputs:
        return {"kept": value}

    def run(impl: str) -> Tensor:
        return semdedup(x, eps=_EPS, impl=impl).kept

    whole, few = 2.0 * n * n * d, 2.0 * n * d
    contenders = [
        Contender(
            "torch",
            lambda: lambda: ~(released(x) > 1 - _EPS),
            gate,
            kept,
            cost=cost(whole, [x], 1.0 * n, x.dtype),
        ),
        *implementations(setting, run, gate, kept, cost=cost(few, [x], 1.0 * n, x.dtype), graph=False),
    ]
    return Workload({"n": n, "d": d, "dtype": str(x.dtype)}, tuple(contenders), samples=n)


CASES = (
    Case(
        "semdedup-reference",
        functools.partial(_reference, n=20_000, d=512),
        "torch",
        41,
        footprints=("torch", "native"),
    ),
    Case("semdedup-318000", functools.partial(_reference, n=318_000, d=512), "torch, blocks", 43, ("gpu",)),
    Case("semdedup-copies", functools.partial(_greedy, n=20_000, d=512), "torch", 42, ("cpu",)),
)
