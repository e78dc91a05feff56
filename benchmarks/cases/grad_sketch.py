"""Sketches of per-sample weight gradients of one Linear layer: against its ordinary weight gradient."""

from __future__ import annotations

import functools
import math

import torch
from adaptinf_kernels import GradSketch, Preconditioner, Sketch, grad_sketch_linear, project
from torch import Tensor

from benchmarks.case import Case, Contender, Outputs, Setting, Workload
from benchmarks.cases.common import STEP, adam, cost, equal_segments, implementations, normal
from benchmarks.gate import Close


def per_sample(x: Tensor, grad_out: Tensor, samples: int, dtype: torch.dtype) -> Tensor:
    """The gradients themselves, [B, d_out, d_in]."""
    x, grad_out = x.to(dtype).unflatten(0, (samples, -1)), grad_out.to(dtype).unflatten(0, (samples, -1))
    return grad_out.mT @ x


def sketch_flops(sketch: Sketch, samples: int, tokens: int, d_out: int, d_in: int) -> float:
    """Operations of the cheapest known way to sketch a layer's gradients; a multiplication and an addition are two."""
    if sketch.kind == "xorts":
        steps = d_out + d_in + 2 * sketch.k * math.log2(sketch.k) + 2 * sketch.k
        return float(sketch.repetitions * tokens * steps)
    entries = sketch.nonzeros if sketch.kind == "sjlt" else sketch.k
    return 2.0 * d_out * d_in * (tokens + entries * samples)


def _gate(x: Tensor, grad_out: Tensor, samples: int, sketch: Sketch, moments: tuple[Tensor, Tensor] | None) -> Close:
    def features(dtype: torch.dtype) -> Outputs:
        gradients = per_sample(x, grad_out, samples, dtype)
        if moments is not None:
            gradients = adam(gradients, *moments)
        return {"features": project(gradients, sketch, name="weight", impl="reference")}

    return Close(lambda: features(torch.float64), lambda: features(torch.float32), required=["features"])


def _contenders(
    setting: Setting,
    x: Tensor,
    grad_out: Tensor,
    samples: int,
    sketch: Sketch,
    label: str,
    moments: tuple[Tensor, Tensor] | None = None,
) -> list[Contender]:
    segments = equal_segments(setting, samples, len(x) // samples)
    flops = sketch_flops(sketch, samples, len(x), grad_out.shape[1], x.shape[1])
    work = cost(flops, [x, grad_out, *(moments or ())], 4.0 * samples * sketch.k, x.dtype)
    preconditioner = None if moments is None else Preconditioner.adam(*moments, step=STEP)

    def run(impl: str) -> GradSketch:
        return grad_sketch_linear(
            x, grad_out, segments, sketch, name="weight", preconditioner=preconditioner, impl=impl
        )

    def named(value: GradSketch) -> Outputs:
        return {"features": value.sketch}

    gate = _gate(x, grad_out, samples, sketch, moments)
    return implementations(setting, run, gate, named, prefix=f"{label}, ", cost=work)


def _build(setting: Setting, *, d_out: int, d_in: int, samples: int, tokens: int, k: int) -> Workload:
    if setting.tiny:
        d_out, d_in, samples, tokens, k = d_out // 32, d_in // 32, 3, 7, 64
    x = normal(setting, samples * tokens, d_in)
    grad_out = normal(setting, samples * tokens, d_out, seed=1)
    sketches = {
        "sjlt": Sketch(kind="sjlt", k=k),
        "xorts": Sketch(kind="xorts", k=k),
        "xorts x4": Sketch(kind="xorts", k=k, repetitions=4),
        "rademacher": Sketch(kind="rademacher", k=min(k, 512)),
    }
    total = Close(
        lambda: {"value": grad_out.double().T @ x.double()},
        lambda: {"value": (grad_out.T @ x)},
        required=["value"],
        rounding=x.dtype,
    )
    plain = cost(2.0 * len(x) * d_out * d_in, [x, grad_out], 4.0 * d_out * d_in, x.dtype)

    def materialised() -> Tensor:
        return per_sample(x, grad_out, samples, x.dtype)

    materialise = Close(
        lambda: {"value": per_sample(x, grad_out, samples, torch.float64)},
        lambda: {"value": materialised()},
        required=["value"],
        rounding=x.dtype,
    )
    contenders = [
        Contender("weight gradient", lambda: lambda: grad_out.T @ x, total, cost=plain, graph=True),
        Contender("per-sample gradients", lambda: materialised, materialise, graph=True),
    ]
    for label, sketch in sketches.items():
        contenders += _contenders(setting, x, grad_out, samples, sketch, label)
    momentum = normal(setting, d_out, d_in, dtype=torch.float32, seed=2)
    moments = momentum, 1 + normal(setting, d_out, d_in, dtype=torch.float32, seed=3).abs()
    contenders += _contenders(setting, x, grad_out, samples, sketches["sjlt"], "sjlt + adam", moments)
    shape = {"B": samples, "T": tokens, "d_out": d_out, "d_in": d_in, "k": k, "dtype": str(x.dtype)}
    return Workload(shape, tuple(contenders))


def _case(name: str, rank: int, suite: str, d_out: int, d_in: int, samples: int, tokens: int, k: int) -> Case:
    build = functools.partial(_build, d_out=d_out, d_in=d_in, samples=samples, tokens=tokens, k=k)
    return Case(name, build, "weight gradient", rank, (suite,))


CASES = (
    _case("grad-sketch-576x576", 35, "cpu", 576, 576, 8, 128, 4096),
    _case("grad-sketch-1536x576", 36, "cpu", 1536, 576, 8, 128, 4096),
    _case("grad-sketch-4096x4096", 15, "gpu", 4096, 4096, 8, 2048, 8192),
    _case("grad-sketch-14336x4096", 45, "gpu", 14_336, 4096, 4, 2048, 8192),
)
