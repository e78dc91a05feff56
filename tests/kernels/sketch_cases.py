"""Inputs of every sketch op, and the list of cases that each of its implementations answers."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import adaptinf_kernels as kernels
import pytest
import torch
from adaptinf_kernels import GradSketch, Preconditioner, Sketch, build_info
from torch import Tensor

from tests.kernels.sketch_oracle import Problem

OPS = ("project", "grad_sketch_linear", "grad_sketch_lora", "grad_sketch_embedding", "grad_sketch_vector")


def ident(value: Any) -> str:
    """A short name of a sketch for pytest."""
    if not isinstance(value, Sketch):
        return str(value)
    extra = f"-s{value.nonzeros}" * (value.nonzeros > 1) + f"-R{value.repetitions}" * (value.repetitions > 1)
    return f"{value.kind}-{value.k}{extra}"


def implementations(op: str) -> list[str]:
    """Those of ``op`` that can run in this process at all."""
    found = ["reference"]
    if build_info()["native"] and importlib.util.find_spec(f"adaptinf_kernels.{op}.native"):
        found.append("native")
    return found


# Builders


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def linear(lengths: Sequence[int], d_in: int, d_out: int, form: str = "") -> Problem:
    tokens = sum(lengths)
    preconditioner = make_preconditioner(form, (d_out, d_in))
    return Problem(
        "grad_sketch_linear",
        lengths,
        {"x": random(tokens, d_in), "grad_out": random(tokens, d_out, seed=1)},
        functools.partial(kernels.grad_sketch_linear, name="layer.weight", preconditioner=preconditioner),
        lambda x, grad_out: {"layer.weight": grad_out.T @ x},
        {"layer.weight": preconditioner} if preconditioner else {},
    )


def lora(
    lengths: Sequence[int],
    d_in: int,
    d_out: int,
    rank: int,
    form: str = "",
    *,
    scaling: float = 2.0,
    dora: bool = False,
) -> Problem:
    tokens, a, b = sum(lengths), random(rank, d_in, seed=2), random(d_out, rank, seed=3)
    magnitude = random(d_out, seed=4) if dora else None
    both = make_preconditioner(form, (rank, d_in)), make_preconditioner(form, (d_out, rank))

    def call(x: Tensor, grad_out: Tensor, **options: Any) -> GradSketch:
        extra = {"magnitude": None if magnitude is None else magnitude.to(x.device), "preconditioners": both}
        a_, b_ = a.to(x.device), b.to(x.device)
        return kernels.grad_sketch_lora(x, grad_out, a_, b_, names=("w.A", "w.B"), scaling=scaling, **extra, **options)

    def gradients(x: Tensor, grad_out: Tensor) -> dict[str, Tensor]:
        g = scaling * grad_out if magnitude is None else scaling * magnitude.to(x.dtype) * grad_out
        return {"w.A": (g @ b.to(x.dtype)).T @ x, "w.B": g.T @ (x @ a.to(x.dtype).T)}

    named = dict(zip(("w.A", "w.B"), both, strict=True))
    preconditioners = {name: one for name, one in named.items() if one is not None}
    tensors = {"x": random(tokens, d_in), "grad_out": random(tokens, d_out, seed=1)}
    return Problem("grad_sketch_lora", lengths, tensors, call, gradients, preconditioners)


def embedding(lengths: Sequence[int], vocabulary: int, d: int, padding_idx: int | None = None) -> Problem:
    tokens = sum(lengths)
    ids = torch.randint(vocabulary, (tokens,), generator=torch.Generator().manual_seed(tokens))

    def gradients(ids: Tensor, grad_out: Tensor) -> dict[str, Tensor]:
        chosen = torch.nn.functional.one_hot(ids.long(), vocabulary).to(grad_out.dtype)
        if padding_idx is not None:
            chosen[:, padding_idx] = 0
        return {"embed.weight": chosen.T @ grad_out}

    options = {"name": "embed.weight", "vocabulary": vocabulary, "padding_idx": padding_idx}
    call = functools.partial(kernels.grad_sketch_embedding, **options)
    tensors = {"ids": ids, "grad_out": random(tokens, d, seed=1)}
    return Problem("grad_sketch_embedding", lengths, tensors, call, gradients)


def bias(lengths: Sequence[int], d: int, form: str = "") -> Problem:
    preconditioner = make_preconditioner(form, (1, d))
    return Problem(
        "grad_sketch_vector",
        lengths,
        {"grad_out": random(sum(lengths), d, seed=1)},
        functools.partial(kernels.grad_sketch_bias, name="layer.bias", preconditioner=preconditioner),
        lambda grad_out: {"layer.bias": grad_out.sum(0, keepdim=True)},
        {"layer.bias": preconditioner} if preconditioner else {},
    )


def norm(lengths: Sequence[int], d: int, form: str = "") -> Problem:
    preconditioner = make_preconditioner(form, (1, d))
    return Problem(
        "grad_sketch_vector",
        lengths,
        {"normalised": random(sum(lengths), d), "grad_out": random(sum(lengths), d, seed=1)},
        functools.partial(kernels.grad_sketch_norm, name="norm.weight", preconditioner=preconditioner),
        lambda normalised, grad_out: {"norm.weight": (normalised * grad_out).sum(0, keepdim=True)},
        {"norm.weight": preconditioner} if preconditioner else {},
    )


def projection(samples: int, d_out: int, d_in: int) -> Problem:
    """``project``, each sample one token that is the gradient itself."""

    def call(gradients: Tensor, cu_seqlens: Tensor, return_norms: bool = False, **options: Any) -> GradSketch:
        return GradSketch(kernels.project(gradients, name="any.weight", **options), None)

    tensors = {"gradients": random(samples, d_out, d_in)}
    return Problem("project", [1] * samples, tensors, call, lambda gradients: {"any.weight": gradients[0]})


def make_preconditioner(form: str, shape: tuple[int, int]) -> Preconditioner | None:
    """With moments as after some steps of gradients of about the cases' size."""
    if not form:
        return None
    m, v = random(*shape, seed=7), 0.5 + random(*shape, seed=8).square()
    if form == "diagonal":
        return Preconditioner.diagonal(v.rsqrt())
    if form == "less":
        return Preconditioner.less(m, v, beta1=0.8, beta2=0.99, eps=1e-6)
    return Preconditioner.adam(m, v, step=5, beta1=0.8, beta2=0.99, eps=1e-6)


# The cases that every implementation answers

SKETCHES = (
    Sketch("sjlt", 64),
    Sketch("sjlt", 60, seed=5, nonzeros=4),
    Sketch("sjlt", 33),
    Sketch("sjlt", 1),
    Sketch("rademacher", 77),
    Sketch("rademacher", 1),
    Sketch("xorts", 64),
    Sketch("xorts", 16, seed=2**63 - 1, repetitions=3),
    Sketch("xorts", 1),
    Sketch("kron", 24, min_side=1),
)
"""Small, of each kind; a k that is no power of two, no multiple of a vector, and 1."""

WIDE_SKETCHES = (
    Sketch("sjlt", 1009),
    Sketch("sjlt", 4096, nonzeros=4),
    Sketch("rademacher", 1009),
    Sketch("rademacher", 4096),
    Sketch("xorts", 4096, repetitions=4),
    Sketch("kron", 4096),
)

PROBLEMS = {
    "linear T=1": linear([1], 9, 5),
    "linear T=63": linear([63], 40, 70),
    "linear T=500": linear([500], 12, 3),
    "linear empty": linear([0, 3, 0, 1, 29, 0], 33, 17),
    "linear 1x1": linear([2, 2], 1, 1),
    "linear 129x130": linear([5, 0], 130, 129),
    "linear 63x1": linear([70, 3], 1, 63),
    "linear across tiles": linear([13, 100, 1, 14, 128, 65, 3], 31, 20),
    "linear diagonal": linear([6, 0, 40], 33, 17, "diagonal"),
    "linear less": linear([6, 0, 40], 33, 17, "less"),
    "linear adam": linear([6, 0, 40], 33, 17, "adam"),
    "lora r=1": lora([1, 0, 3], 9, 5, 1),
    "lora r=8": lora([63, 2], 40, 70, 8, scaling=0.5),
    "lora r=5 T=500": lora([500], 12, 3, 5),
    "lora r=16 across tiles": lora([13, 100, 0, 14, 65], 63, 130, 16, scaling=16 / 16**0.5),
    "lora dora": lora([6, 0, 40], 33, 17, 4, dora=True),
    "lora less": lora([6, 0, 40], 33, 17, 4, "less"),
    "lora adam dora": lora([6, 0, 40], 33, 17, 4, "adam", dora=True),
    "lora diagonal": lora([6, 0, 40], 33, 17, 4, "diagonal"),
    "embedding": embedding([0, 7, 1, 0, 63], 50, 20),
    "embedding one row": embedding([3, 4], 1, 9),
    "embedding d=1": embedding([500, 2], 40, 1),
    "embedding padding": embedding([30, 5], 6, 130, padding_idx=2),
    "bias": bias([0, 7, 1, 500], 63),
    "bias d=1": bias([3, 0, 2], 1),
    "bias less": bias([0, 7, 1], 130, "less"),
    "norm": norm([0, 7, 1, 500], 130),
    "norm d=1": norm([3, 2], 1),
    "norm adam": norm([0, 7, 1], 63, "adam"),
    "project": projection(3, 5, 7),
    "project vector": projection(2, 1, 130),
    "project column": projection(2, 130, 1),
    "project across tiles": projection(5, 63, 65),
    "project none": projection(0, 4, 3),
}
"""Empty samples, T = 1, 63 and 500, samples across any tile of tokens, widths 1, 63 and 130, every preconditioner."""


def takes(problem: Problem, sketch: Sketch) -> bool:
    """Whether the kind has this op at all: xorts and kron never form the gradient, so they have no preconditioners."""
    return not (problem.preconditioners and sketch.kind in ("xorts", "kron"))


def cases(op: str = "") -> list[Any]:
    """(problem's name, sketch) of every case, of one op or of all, for ``pytest.mark.parametrize``."""
    some = {name: problem for name, problem in PROBLEMS.items() if op in ("", problem.op)}
    pairs = [(name, sketch) for name, one in some.items() for sketch in SKETCHES if takes(one, sketch)]
    large = ("linear empty", "lora r=16 across tiles", "lora less", "embedding", "norm", "project across tiles")
    pairs += [(n, sketch) for n in large if n in some for sketch in WIDE_SKETCHES if takes(some[n], sketch)]
    widest = "linear 129x130"  # too wide for a dense oracle
    pairs += [(widest, sketch) for sketch in WIDE_SKETCHES if widest in some and sketch.kind in ("sjlt", "xorts")]
    return [pytest.param(name, sketch, id=f"{name}-{ident(sketch)}") for name, sketch in pairs]
