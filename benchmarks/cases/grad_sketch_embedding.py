"""Sketches of the token embedding's per-sample gradients: against the dense gradient that autograd makes."""

from __future__ import annotations

import functools

import torch
from adaptinf_kernels import GradSketch, Sketch, grad_sketch_embedding, project
from torch import Tensor

from benchmarks.case import Case, Contender, Outputs, Setting, Suite, Workload
from benchmarks.cases.common import cost, equal_segments, implementations, normal
from benchmarks.gate import Close

_CHECKED = 1
"""Samples whose whole gradient the gate forms, [vocabulary, d] each."""


def _build(setting: Setting, *, vocabulary: int, width: int, samples: int, tokens: int) -> Workload:
    if setting.tiny:
        vocabulary, width, samples, tokens = 211, 24, 3, 17
    sketch = Sketch(kind="sjlt", k=256 if setting.tiny else 8192)
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(vocabulary, (samples * tokens,), generator=generator).to(setting.device)
    grad_out = normal(setting, samples * tokens, width)
    segments = equal_segments(setting, samples, tokens)

    def run(impl: str) -> GradSketch:
        return grad_sketch_embedding(ids, grad_out, segments, sketch, name="embed", vocabulary=vocabulary, impl=impl)

    def table(rows: slice, dtype: torch.dtype) -> Tensor:
        """The gradient over some tokens, as a matrix."""
        zeros = torch.zeros(vocabulary, width, dtype=dtype, device=setting.device)
        return zeros.index_add_(0, ids[rows], grad_out[rows].to(dtype))

    def features(dtype: torch.dtype) -> Outputs:
        first = [table(slice(b * tokens, (b + 1) * tokens), dtype) for b in range(_CHECKED)]
        return {"features": project(torch.stack(first), sketch, name="embed", impl="reference")}

    def dense() -> Tensor:
        return torch.ops.aten.embedding_dense_backward(grad_out, ids, vocabulary, -1, False)

    gate = Close(lambda: features(torch.float64), lambda: features(torch.float32), required=["features"])
    whole = Close(
        lambda: {"value": table(slice(None), torch.float64)},
        lambda: {"value": table(slice(None), grad_out.dtype)},
        required=["value"],
        rounding=grad_out.dtype,
    )
    work = cost(2.0 * grad_out.numel(), [ids, grad_out], 4.0 * samples * sketch.k, grad_out.dtype)
    written = float(vocabulary * width * grad_out.element_size())
    contenders = [
        Contender(
            "dense gradient", lambda: dense, whole, cost=cost(0, [ids, grad_out], written, grad_out.dtype), graph=True
        ),
        *implementations(setting, run, gate, lambda found: {"features": found.sketch[:_CHECKED]}, cost=work),
    ]
    shape = {"B": samples, "T": tokens, "V": vocabulary, "d": width, "k": sketch.k, "dtype": str(grad_out.dtype)}
    return Workload(shape, tuple(contenders))


def _case(name: str, rank: int, suite: Suite, **shape: int) -> Case:
    return Case(name, functools.partial(_build, **shape), "dense gradient", rank, (suite,))


CASES = (
    _case("grad-sketch-embedding", 38, "cpu", vocabulary=49_152, width=576, samples=8, tokens=128),
    _case("grad-sketch-embedding-llama-1b", 55, "gpu", vocabulary=128_256, width=2048, samples=8, tokens=2048),
)
