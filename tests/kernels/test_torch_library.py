"""Each op is a well-behaved PyTorch operator: schemas, fakes, full graphs, one graph for all batch sizes.

opcheck does not check numbers, so the layouts are permuted here and compared in the tests of the ops.
"""

from __future__ import annotations

import dataclasses
from typing import Any

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
    signs,
    token_scores,
)
from adaptinf_kernels.sketch.preconditioner import NONE
from torch import Tensor

from tests.kernels import sketch_cases as cases

SKETCH = Sketch("sjlt", 16)
X, G = torch.randn(5, 9).T, torch.randn(4, 9).T
CU = torch.tensor([0, 3, 3, 9])
IDS = torch.arange(18)[::2] % 7
A, B = torch.randn(5, 2).T, torch.randn(2, 4).T
LABELS = torch.tensor([0, 1, -100, 2, 3, 0, 1, 2, 3])


def less(*shape: int) -> tuple[Any, ...]:
    return Preconditioner.less(torch.ones(shape).T.contiguous().T, torch.ones(shape)).arguments


def check(name: str, *arguments: object) -> None:
    torch.library.opcheck(getattr(torch.ops.adaptinf_kernels, name).default, arguments)


def test_opcheck_of_signs_and_scores() -> None:
    check("signs", 0, "w", 0, 0, 3, 5, 130, torch.device("cpu"), "auto")
    for grad in (False, True):
        check("token_scores", X, torch.randn(5, 4).T, LABELS, None, grad, "auto")
        check("token_scores", X, torch.randn(5, 4).T, LABELS, torch.zeros(4), grad, "auto")
    check("token_scores", X.bfloat16(), None, LABELS, None, True, "auto")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norms", [False, True])
def test_opcheck_of_sketches(norms: bool, dtype: torch.dtype) -> None:
    fields, x, g, a, b = SKETCH.arguments, X.to(dtype), G.to(dtype), A.to(dtype), B.to(dtype)
    for impl in ("auto", "reference"):
        check("grad_sketch_linear", x, g, CU, *fields, "w", *NONE, norms, impl)
        check("grad_sketch_linear", x, g, CU.int(), *fields, "w", *less(4, 5), norms, impl)
        check("grad_sketch_lora", x, g, a, b, CU, *fields, "A", "B", 0.5, None, *NONE, *NONE, norms, impl)
        magnitude = torch.ones(8)[::2]
        states = (*less(2, 5), *less(4, 2))
        check("grad_sketch_lora", x, g, a, b, CU, *fields, "A", "B", 0.5, magnitude, *states, norms, impl)
        check("grad_sketch_embedding", IDS, g, CU, *fields, "e", 7, 3, norms, impl)
        check("grad_sketch_vector", None, g, CU, *fields, "b", *less(1, 4), norms, impl)
        check("grad_sketch_vector", torch.randn(4, 9).T.to(dtype), g, CU, *fields, "n", *NONE, norms, impl)
        check("project", torch.randn(12, 3).T.to(dtype), [3, 4], *Sketch("xorts", 8).arguments, "w", norms, impl)


def everything(x: Tensor, g: Tensor, ids: Tensor, cu: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    z = torch.zeros(cu.shape[0] - 1, SKETCH.k)
    moments = torch.full((4, 5), 0.5)
    preconditioner = Preconditioner.adam(moments, moments, step=3)
    linear = grad_sketch_linear(x, g, cu, SKETCH, name="w", preconditioner=preconditioner, return_norms=True, add_to=z)
    lora = grad_sketch_lora(x, g, A, B, cu, SKETCH, names=("A", "B"), scaling=2.0, return_norms=True, add_to=z)
    table = grad_sketch_embedding(ids, g, cu, SKETCH, name="e", vocabulary=7, return_norms=True, add_to=z)
    norm = grad_sketch_norm(g, 2 * g, cu, SKETCH, name="n", return_norms=True, add_to=z)
    offset = grad_sketch_bias(g, cu, SKETCH, name="b", return_norms=True, add_to=z)
    squares = [part.squared_norms for part in (linear, lora, table, norm, offset)]
    scores = token_scores(x, weight, ids % 4, grad=True)
    assert scores.grad_hidden is not None
    assert all(part is not None for part in squares)
    return z, *squares, project(g * 2, SKETCH, name="p"), scores.nll, scores.grad_hidden, signs(0, "w", 2, 3)


@pytest.mark.slow
def test_full_graph_and_no_new_graph_for_another_batch() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(everything, fullgraph=True, dynamic=True, backend=backend)
    weight = torch.randn(5, 4).T
    for lengths in ([4, 4, 0, 4, 7, 1, 3], [3, 0, 6], [2, 5]):  # sizes unlike any width: equal ones share a symbol
        tokens = sum(lengths)
        x, g, ids = cases.random(tokens, 5), cases.random(tokens, 4), torch.arange(tokens) % 7
        cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0)])
        for value, expected in zip(compiled(x, g, ids, cu, weight), everything(x, g, ids, cu, weight), strict=True):
            torch.testing.assert_close(value, expected)
    assert len(graphs) == 1


@pytest.mark.slow
def test_full_graph_through_aot() -> None:
    """The fakes' shapes, strides and aliases hold under functionalisation."""
    torch._dynamo.reset()
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    arguments = (X, G, IDS, CU, torch.randn(4, 5))
    for value, expected in zip(compiled(*arguments), everything(*arguments), strict=True):
        torch.testing.assert_close(value, expected)


def test_arguments_are_the_schemas_order() -> None:
    """``Sketch.arguments`` and ``Preconditioner.arguments`` are spread into the schemas by place."""
    assert [f.name for f in dataclasses.fields(Sketch)] == ["kind", "k", "seed", "nonzeros", "repetitions", "min_side"]
    for name in ("project", "grad_sketch_linear", "grad_sketch_lora", "grad_sketch_embedding", "grad_sketch_vector"):
        names = [argument.name for argument in getattr(torch.ops.adaptinf_kernels, name).default._schema.arguments]
        first = names.index("kind")
        assert names[first : first + 6] == ["kind", "k", "seed", "nonzeros", "repetitions", "min_side"]
