"""Bad arguments of the sketch ops: an error that names the argument, never a wrong sketch."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels import (
    Preconditioner,
    Sketch,
    grad_sketch_bias,
    grad_sketch_embedding,
    grad_sketch_linear,
    grad_sketch_lora,
    grad_sketch_norm,
    project,
)

S = Sketch("sjlt", 16)
X, G = torch.zeros(5, 3), torch.zeros(5, 2)
A, B = torch.zeros(4, 3), torch.zeros(2, 4)
IDS = torch.tensor([0, 1, 2, 3, 4])
CU = torch.tensor([0, 5])
ON_META = torch.zeros(5, 2, device="meta")


def linear(x=X, g=G, cu=CU, sketch=S, **options):
    return grad_sketch_linear(x, g, cu, sketch, name="", **options)


def lora(x=X, g=G, a=A, b=B, cu=CU, sketch=S, **options):
    return grad_sketch_lora(x, g, a, b, cu, sketch, **{"names": ("a", "b"), "scaling": 1.0, **options})


def embedding(ids=IDS, g=G, cu=CU, sketch=S, **options):
    return grad_sketch_embedding(ids, g, cu, sketch, **{"name": "", "vocabulary": 5, **options})


def norm(x=G, g=G, cu=CU, sketch=S, **options):
    return grad_sketch_norm(x, g, cu, sketch, name="", **options)


def bias(g=G, cu=CU, sketch=S, **options):
    return grad_sketch_bias(g, cu, sketch, name="", **options)


def scaled(*shape: int) -> Preconditioner:
    return Preconditioner.diagonal(torch.ones(shape))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: project(torch.zeros(3), S), ValueError, r"\[3\]"),
        (lambda: project(torch.zeros(2, 3, dtype=torch.int64), S), TypeError, "int64"),
        (lambda: project(torch.zeros(2, 6), S, shape=(2, 2)), ValueError, "6 entries"),
        (lambda: project(torch.zeros(2, 6), S, shape=(-2, -3)), ValueError, "6 entries"),
        (lambda: project(torch.zeros(2, 6), Sketch("xorts", 16)), ValueError, "give shape="),
        (lambda: project(torch.zeros(2, 6), Sketch("kron", 16, min_side=1)), ValueError, "give shape="),
        (lambda: project(torch.zeros(2, 6), S, impl="cuda"), ValueError, "choose from auto"),  # type: ignore[arg-type]
        (lambda: linear(g=G[:4]), ValueError, r"\[4, 2\]"),
        (lambda: linear(g=G[0]), ValueError, r"grad_out must be a matrix \[T, d\], not \[2\]"),
        (lambda: linear(x=X.int()), TypeError, "x must be floating point, not torch.int32"),
        (lambda: linear(g=ON_META), ValueError, "x is on cpu and grad_out on meta"),
        (lambda: linear(cu=torch.tensor([0, 4])), ValueError, "T=5"),
        (lambda: linear(cu=torch.tensor([1, 5])), ValueError, "from 1 to 5"),
        (lambda: linear(cu=torch.tensor([0, 4, 2, 5])), ValueError, "segment 1 is 4 to 2"),
        (lambda: linear(cu=torch.tensor([[0, 5]])), ValueError, r"\[B \+ 1\]"),
        (lambda: linear(cu=torch.tensor([0.0, 5.0])), TypeError, "float32"),
        (lambda: linear(cu=torch.tensor([], dtype=torch.int64)), ValueError, r"\[B \+ 1\]"),
        (lambda: linear(cu=CU.to("meta")), ValueError, "cu_seqlens is on meta"),
        (lambda: linear(preconditioner=scaled(3, 2)), ValueError, r"must be \[2, 3\] on cpu, not \[3, 2\]"),
        (lambda: linear(sketch=Sketch("xorts", 16), preconditioner=scaled(2, 3)), ValueError, "use sjlt or rademacher"),
        (lambda: linear(add_to=torch.zeros(1, 16).double()), ValueError, "add_to must be float32"),
        (lambda: linear(add_to=torch.zeros(2, 16)), ValueError, r"add_to must be float32 \[1, 16\]"),
        (lambda: lora(a=A.T), ValueError, r"lora_a must be \[r, 3\]"),
        (lambda: lora(a=A[0]), ValueError, r"lora_a must be \[r, 3\]"),
        (lambda: lora(b=B[:, :3]), ValueError, r"lora_b \[2, r\]"),
        (lambda: lora(a=A.long()), TypeError, "lora_a must be floating point"),
        (lambda: lora(b=B.to("meta")), TypeError, "lora_b must be floating point on cpu"),
        (lambda: lora(magnitude=torch.ones(3)), ValueError, r"magnitude must be \[2\]"),
        (lambda: lora(magnitude=torch.ones(2).int()), TypeError, "magnitude must be floating point"),
        (lambda: lora(preconditioners=(None, scaled(4, 2))), ValueError, r"must be \[2, 4\]"),
        (lambda: lora(preconditioners=(scaled(2, 4), None)), ValueError, r"must be \[4, 3\]"),
        (lambda: lora(cu=torch.tensor([0, 6])), ValueError, "T=5"),
        (lambda: embedding(ids=IDS.float()), TypeError, "ids must be int32 or int64"),
        (lambda: embedding(ids=IDS[:4]), ValueError, r"ids must be \[T=5\]"),
        (lambda: embedding(ids=IDS[None]), ValueError, r"ids must be \[T=5\]"),
        (lambda: embedding(vocabulary=4), ValueError, r"ids\[4\]=4 is no row of an embedding of 4"),
        (lambda: embedding(ids=IDS - 2), ValueError, r"ids\[0\]=-2 is no row"),
        (lambda: embedding(padding_idx=5), ValueError, "padding_idx=5 is no row of 5"),
        (lambda: embedding(padding_idx=-6), ValueError, "padding_idx=-6"),
        (lambda: embedding(cu=torch.tensor([0, 4])), ValueError, "T=5"),
        (lambda: norm(x=X), ValueError, r"normalised must be \[5, 2\] as grad_out is, not \[5, 3\]"),
        (lambda: norm(x=G[:4]), ValueError, "the same tokens"),
        (lambda: norm(preconditioner=scaled(2)), ValueError, r"must be \[1, 2\]"),
        (lambda: bias(preconditioner=scaled(2, 1)), ValueError, r"must be \[1, 2\]"),
        (lambda: bias(g=G[0]), ValueError, "grad_out must be a matrix"),
        (lambda: bias(cu=torch.tensor([0, 4])), ValueError, "T=5"),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_negative_padding_counts_from_the_end() -> None:
    g = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(embedding(g=g, padding_idx=-1).sketch, embedding(g=g, padding_idx=4).sketch)
