"""Sketching gradients that exist, [B, D] to [B, k]: against the projectors that people use."""

from __future__ import annotations

from typing import Any

import torch
from adaptinf_kernels import Sketch, project
from torch import Tensor

from benchmarks import peers
from benchmarks.case import Case, Contender, Setting, Workload
from benchmarks.cases.common import cost, implementations, normal
from benchmarks.gate import Close, Unbiased, gram


def _features(value: Tensor) -> dict[str, Tensor]:
    return {"features": value}


def ours(setting: Setting, gradients: Tensor, sketch: Sketch) -> list[Contender]:
    """Our implementations behind the float64 reference; cost of a pass over the gradients."""
    samples, columns = gradients.shape
    entries = sketch.nonzeros if sketch.kind == "sjlt" else sketch.k
    gate = Close(
        lambda: _features(project(gradients.double(), sketch, name="weight", impl="reference")),
        lambda: _features(project(gradients, sketch, name="weight", impl="reference")),
        required=["features"],
    )
    work = cost(2.0 * samples * columns * entries, [gradients], 4.0 * samples * sketch.k, gradients.dtype)

    def run(impl: str) -> Tensor:
        return project(gradients, sketch, name="weight", impl=impl)

    return implementations(setting, run, gate, _features, cost=work)


def _rademacher(setting: Setting) -> Workload:
    samples, k = 8, 256 if setting.tiny else 2048
    columns = 2000 if setting.tiny else 156_160 if setting.suite == "cpu" else 1 << 22
    gradients = normal(setting, samples, columns)
    sketch = Sketch(kind="rademacher", k=k)
    own = Unbiased(lambda: gram([gradients]), scale=k**-0.5)  # these projectors leave their signs unscaled
    signs = 4.0 * columns * k

    def cached() -> Any:
        matrix = torch.randn(k, columns, device=setting.device).sign_().to(gradients.dtype)
        return lambda: gradients @ matrix.T

    contenders = [
        *ours(setting, gradients, sketch),
        Contender(
            "trak BasicProjector", lambda: peers.trak_basic(columns, k, setting.device, gradients), own, _features
        ),
        Contender(
            "dattri BasicProjector",
            lambda: peers.dattri_basic(columns, k, setting.device, gradients),
            Unbiased(lambda: gram([gradients])),  # scaled
            _features,
        ),
        Contender("stored matrix", cached, own, _features, cost=cost(0, [gradients], signs, gradients.dtype)),
    ]
    if setting.suite == "gpu":
        contenders.append(Contender("fast_jl", lambda: peers.fast_jl(k, gradients), own, _features))
    return Workload({"B": samples, "D": columns, "k": k, "dtype": str(gradients.dtype)}, tuple(contenders))


def _sjlt(setting: Setting) -> Workload:
    samples, k = (4, 256) if setting.tiny else (8, 8192) if setting.suite == "cpu" else (16, 8192)
    columns = 2000 if setting.tiny else 156_160 if setting.suite == "cpu" else 1 << 24
    gradients = normal(setting, samples, columns)
    sketch = Sketch(kind="sjlt", k=k)
    own = Unbiased(lambda: gram([gradients]))

    def index_add(nonzeros: int) -> Any:
        rows = torch.randint(k, (nonzeros, columns), device=setting.device)
        signs = torch.randn(nonzeros, columns, device=setting.device).sign_() * nonzeros**-0.5

        def run() -> Tensor:
            out = torch.zeros(samples, k, device=setting.device)
            for bucket, sign in zip(rows, signs, strict=True):
                out.index_add_(1, bucket, gradients * sign)
            return out

        return run

    def copy() -> Any:
        target = torch.empty_like(gradients)
        return lambda: target.copy_(gradients)

    copied = cost(0, [gradients], gradients.numel() * gradients.element_size(), gradients.dtype)
    contenders = [
        *ours(setting, gradients, sketch),
        Contender("index_add", lambda: index_add(sketch.nonzeros), own, _features),
        Contender(
            "copy",
            copy,
            Close(lambda: {"value": gradients}, lambda: {"value": gradients}, required=["value"]),
            cost=copied,
            graph=True,
        ),
    ]
    if setting.suite == "gpu":
        contenders.append(Contender("sjlt package", lambda: peers.sjlt(columns, k, gradients), own, _features))
    return Workload(
        {"B": samples, "D": columns, "k": k, "s": sketch.nonzeros, "dtype": str(gradients.dtype)}, tuple(contenders)
    )


CASES = (
    Case("project-rademacher", _rademacher, "trak BasicProjector", 30, footprints=("native", "stored matrix")),
    Case("project-sjlt", _sjlt, "copy", 20),
)
