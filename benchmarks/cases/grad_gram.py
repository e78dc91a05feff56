"""Inner products of per-sample gradients: against the gradients themselves and their Gram matrix."""

from __future__ import annotations

import functools

import torch
from adaptinf_kernels import grad_gram
from torch import Tensor

from benchmarks.case import Case, Contender, Outputs, Setting, Suite, Workload
from benchmarks.cases.common import cost, equal_segments, implementations, normal
from benchmarks.cases.grad_sketch import per_sample
from benchmarks.gate import Close


def _build(setting: Setting, *, d_out: int, d_in: int, samples: int, tokens: int) -> Workload:
    if setting.tiny:
        d_out, d_in, samples, tokens = d_out // 32, d_in // 32, 3, 7
    x, grad_out = normal(setting, samples * tokens, d_in), normal(setting, samples * tokens, d_out, seed=1)
    segments = equal_segments(setting, samples, tokens)

    def run(impl: str) -> Tensor:
        return grad_gram(x, grad_out, segments, impl=impl)

    def gram(dtype: torch.dtype) -> Tensor:
        gradients = per_sample(x, grad_out, samples, dtype).flatten(1)
        return gradients @ gradients.T

    def named(value: Tensor) -> Outputs:
        return {"gram": value}

    def gate(rough: torch.dtype) -> Close:
        return Close(lambda: named(gram(torch.float64)), lambda: named(gram(rough)), required=["gram"], rounding=rough)

    pairs = tokens**2 * samples * (samples + 1) * (d_out + d_in)  # of tokens, each pair of samples once
    formed = 2.0 * len(x) * d_out * d_in + 2.0 * samples**2 * d_out * d_in
    read, written = [x, grad_out], 4.0 * samples**2
    contenders = [
        Contender(
            "formed gradients",
            lambda: lambda: gram(x.dtype),
            gate(x.dtype),
            named,
            cost=cost(formed, read, written, x.dtype),
            graph=True,
        ),
        *implementations(setting, run, gate(torch.float32), named, cost=cost(float(pairs), read, written, x.dtype)),
    ]
    shape = {"B": samples, "T": tokens, "d_out": d_out, "d_in": d_in, "dtype": str(x.dtype)}
    return Workload(shape, tuple(contenders))


def _case(name: str, rank: int, suite: Suite, **shape: int) -> Case:
    return Case(name, functools.partial(_build, **shape), "formed gradients", rank, (suite,))


CASES = (
    _case("grad-gram-short", 39, "cpu", d_out=1536, d_in=576, samples=16, tokens=32),
    _case("grad-gram-long", 40, "cpu", d_out=1536, d_in=576, samples=8, tokens=128),
    _case("grad-gram-4096x4096-short", 47, "gpu", d_out=4096, d_in=4096, samples=32, tokens=64),
    _case("grad-gram-4096x4096-long", 48, "gpu", d_out=4096, d_in=4096, samples=8, tokens=1024),
)
