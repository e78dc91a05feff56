"""Arrays of other libraries come in by DLPack; TRAK's interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from adaptinf_kernels import (
    Preconditioner,
    Sketch,
    TrakProjector,
    grad_gram,
    grad_sketch_bias,
    grad_sketch_embedding,
    grad_sketch_linear,
    grad_sketch_lora,
    grad_sketch_norm,
    head_sketch,
    project,
    sample_scores,
    token_scores,
)
from adaptinf_kernels._arrays import as_tensor

SKETCH = Sketch("sjlt", 64)


class Foreign:
    """An array that is known by its DLPack export alone, as CuPy's are."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.values.__dlpack_device__()


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    draw = lambda *shape: generator.standard_normal(shape).astype(np.float32)  # noqa: E731
    return {
        "x": draw(9, 6), "g": draw(9, 4), "a": draw(2, 6), "b": draw(4, 2),
        "w": draw(5, 6), "bias": draw(5), "ids": generator.integers(0, 5, 9), "cu": np.array([0, 4, 4, 9], np.int32),
    }  # fmt: skip


CALLS = {
    "linear": lambda v: grad_sketch_linear(v["x"], v["g"], v["cu"], SKETCH, name="w"),
    "lora": lambda v: grad_sketch_lora(v["x"], v["g"], v["a"], v["b"], v["cu"], SKETCH, names=("a", "b"), scaling=2.0),
    "embedding": lambda v: grad_sketch_embedding(v["ids"], v["g"], v["cu"], SKETCH, name="e", vocabulary=5),
    "bias": lambda v: grad_sketch_bias(v["g"], v["cu"], SKETCH, name="b"),
    "norm": lambda v: grad_sketch_norm(v["g"], v["g"], v["cu"], SKETCH, name="n"),
    "project": lambda v: (project(v["x"], SKETCH, name="w"),),
    "token_scores": lambda v: token_scores(v["x"], v["w"], v["ids"], bias=v["bias"]),
    "sample_scores": lambda v: (
        sample_scores(token_scores(v["x"], v["w"], v["ids"]), v["cu"], labels=v["ids"]).nll.nan_to_num(),
    ),
    "head_sketch": lambda v: (head_sketch(v["x"], v["w"], v["ids"], v["cu"], SKETCH, name="h", bias=v["bias"]),),
    "grad_gram": lambda v: (grad_gram(v["x"], v["g"], v["cu"]),),
}


@pytest.mark.parametrize("call", CALLS)
def test_dlpack_numpy_and_torch_give_the_same_bits(call: str) -> None:
    given = arrays()
    expected = CALLS[call]({name: torch.from_numpy(value) for name, value in given.items()})[0]
    assert torch.equal(CALLS[call](given)[0], expected)
    assert torch.equal(CALLS[call]({name: Foreign(value) for name, value in given.items()})[0], expected)


def test_memory_is_shared_where_it_can_be() -> None:
    values = np.zeros(3)
    as_tensor("v", Foreign(values))[0] = 1
    as_tensor("v", values)[1] = 2
    assert values.tolist() == [1, 2, 0]
    values.flags.writeable = False
    assert as_tensor("v", values).tolist() == [1, 2, 0]
    assert as_tensor("v", np.arange(3)[::-1]).tolist() == [2, 1, 0]
    assert not as_tensor("v", torch.zeros(1, requires_grad=True)).requires_grad


def test_what_is_no_array_is_named() -> None:
    with pytest.raises(TypeError, match=r"grad_out must be an array .* not list"):
        grad_sketch_linear(np.zeros((1, 1), np.float32), [[0.0]], np.array([0, 1]), SKETCH, name="w")  # type: ignore[arg-type]


def test_trak_projector_is_project_without_the_scale() -> None:
    sketch = Sketch("rademacher", 40, seed=3)
    gradients = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    projector = TrakProjector(sketch)
    z = projector.project(gradients, 7)
    torch.testing.assert_close(z, project(gradients, sketch, name="7") * 40**0.5)
    assert not torch.equal(z, projector.project(gradients, 8))
    torch.testing.assert_close(TrakProjector(sketch, scale=True).project(gradients, 7), z / 40**0.5)
    projector.free_memory()


def test_trak_projector_sums_over_named_parameters() -> None:
    sketch, generator = Sketch("sjlt", 32), torch.Generator().manual_seed(0)
    gradients = {"w": torch.randn(3, 4, 5, generator=generator), "b": torch.randn(3, 4, generator=generator)}
    z = TrakProjector(sketch, scale=True).project(gradients, 0)
    expected = project(gradients["w"], sketch, name="0/w") + project(gradients["b"][:, None], sketch, name="0/b")
    torch.testing.assert_close(z, expected)
    with pytest.raises(ValueError, match="nothing to project"):
        TrakProjector(sketch).project({}, 0)


def test_trak_accepts_it() -> None:
    """TRAK asks its projectors for these two methods and no base class."""
    trak = pytest.importorskip("trak.projectors", reason="traker is not installed")
    wanted = trak.AbstractProjector.__abstractmethods__
    assert all(callable(getattr(TrakProjector, name)) for name in wanted)


def test_preconditioners_of_an_optimizer() -> None:
    """The form "adam" is the step that torch.optim.Adam takes with that gradient."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 6, generator=generator, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=1.0, betas=(0.8, 0.95), eps=1e-3)
    with pytest.raises(ValueError, match="has it stepped"):
        Preconditioner.of_optimizer(optimizer, weight)
    for _ in range(3):
        weight.grad = torch.randn(4, 6, generator=generator, dtype=torch.float64)
        optimizer.step()
    preconditioner = Preconditioner.of_optimizer(optimizer, weight)
    x, g = torch.randn(1, 6, generator=generator, dtype=torch.float64), torch.randn(1, 4, generator=generator).double()
    cu = torch.tensor([0, 1])
    z = grad_sketch_linear(x, g, cu, SKETCH, name="w", preconditioner=preconditioner).sketch
    before, weight.grad = weight.detach().clone(), g.T @ x
    optimizer.step()
    step = before - weight.detach()
    torch.testing.assert_close(z, project(step[None], SKETCH, name="w"), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="does not train"):
        Preconditioner.of_optimizer(optimizer, torch.nn.Parameter(torch.zeros(1)))
