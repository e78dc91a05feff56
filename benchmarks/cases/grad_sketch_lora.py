"""Sketches of LoRA's per-sample gradients: against the batch's own gradient of A and B."""

from __future__ import annotations

import functools

import torch
from adaptinf_kernels import GradSketch, Sketch, grad_sketch_lora, project
from torch import Tensor

from benchmarks.case import Case, Contender, Outputs, Setting, Suite, Workload
from benchmarks.cases.common import cost, equal_segments, implementations, normal
from benchmarks.gate import Close

SCALING = 2.0
NAMES = ("lora_A", "lora_B")


def gradients(x: Tensor, grad_out: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """dA and dB of ``y = W x + SCALING B A x``; x and grad_out [..., T, d] give [..., r, d_in] and [..., d_out, r]."""
    x, grad_out, a, b = (tensor.to(dtype) for tensor in (x, grad_out, a, b))
    return SCALING * (grad_out @ b).mT @ x, SCALING * grad_out.mT @ (x @ a.T)


def _build(setting: Setting, *, d_out: int, d_in: int, r: int, samples: int, tokens: int) -> Workload:
    if setting.tiny:
        d_out, d_in, r, samples, tokens = d_out // 32, d_in // 32, 4, 3, 7
    sketch = Sketch(kind="sjlt", k=256 if setting.tiny else 8192)
    x, grad_out = normal(setting, samples * tokens, d_in), normal(setting, samples * tokens, d_out, seed=1)
    a, b = normal(setting, r, d_in, seed=2), normal(setting, d_out, r, seed=3)
    segments = equal_segments(setting, samples, tokens)

    def run(impl: str) -> GradSketch:
        return grad_sketch_lora(x, grad_out, a, b, segments, sketch, names=NAMES, scaling=SCALING, impl=impl)

    def features(dtype: torch.dtype) -> Outputs:
        split = (samples, tokens)
        found = gradients(x.unflatten(0, split), grad_out.unflatten(0, split), a, b, dtype)
        parts = [project(g, sketch, name=n, impl="reference").double() for n, g in zip(NAMES, found, strict=True)]
        return {"features": parts[0] + parts[1]}

    def summed(dtype: torch.dtype) -> Outputs:
        return dict(zip(NAMES, gradients(x, grad_out, a, b, dtype), strict=True))

    gate = Close(lambda: features(torch.float64), lambda: features(torch.float32), required=["features"])
    whole = Close(lambda: summed(torch.float64), lambda: summed(x.dtype), required=NAMES, rounding=x.dtype)
    flops = 4.0 * len(x) * r * (d_in + d_out)
    read = [x, grad_out, a, b]
    contenders = [
        Contender(
            "gradient of A and B",
            lambda: lambda: gradients(x, grad_out, a, b, x.dtype),
            whole,
            lambda found: dict(zip(NAMES, found, strict=True)),
            cost=cost(flops, read, 4.0 * r * (d_in + d_out), x.dtype),
            graph=True,
        ),
        *implementations(
            setting,
            run,
            gate,
            lambda found: {"features": found.sketch},
            cost=cost(flops + 2.0 * samples * r * (d_in + d_out), read, 4.0 * samples * sketch.k, x.dtype),
        ),
    ]
    shape = {"B": samples, "T": tokens, "d_out": d_out, "d_in": d_in, "r": r, "k": sketch.k, "dtype": str(x.dtype)}
    return Workload(shape, tuple(contenders))


def _case(name: str, rank: int, suite: Suite, **shape: int) -> Case:
    return Case(name, functools.partial(_build, **shape), "gradient of A and B", rank, (suite,))


CASES = (
    _case("grad-sketch-lora-1536x576", 37, "cpu", d_out=1536, d_in=576, r=8, samples=8, tokens=128),
    _case("grad-sketch-lora-4096x4096", 16, "gpu", d_out=4096, d_in=4096, r=8, samples=8, tokens=2048),
    _case("grad-sketch-lora-14336x4096-r64", 46, "gpu", d_out=14_336, d_in=4096, r=64, samples=8, tokens=2048),
)
