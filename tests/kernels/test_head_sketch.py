"""The sketch of the head's own gradient against the sketch of that gradient's factors, and of the gradient itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adaptinf_kernels import Sketch, grad_sketch_linear, head_sketch, project
from adaptinf_kernels.token_scores import head

from tests.kernels.test_token_scores import problem

SKETCHES = [
    Sketch("sjlt", 64),
    Sketch("rademacher", 40),
    Sketch("xorts", 64, repetitions=2),
    Sketch("kron", 64, min_side=1),
]
CU = torch.tensor([0, 12, 12, 13, 40])


@pytest.fixture(params=SKETCHES, ids=lambda sketch: sketch.kind)
def sketch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sketch:
    monkeypatch.setattr(head, "_ROWS", 64)  # several tiles
    return request.param


def factors(hidden: Any, weight: Any, labels: Any, bias: Any, token_weights: Any) -> torch.Tensor:
    """w (p - onehot), with all logits in float64."""
    logits = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    gradient = logits.softmax(1) - torch.nn.functional.one_hot(labels.clamp_min(0), len(weight))
    return gradient * (labels != -100)[:, None] * token_weights.double()[:, None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_the_sketch_of_its_factors(sketch: Sketch, dtype: torch.dtype) -> None:
    hidden, weight, bias, labels = problem(40, 10, 300, dtype)
    weight *= 0.5
    token_weights = torch.linspace(-1, 2, 40)
    for optional in (None, bias):
        found = head_sketch(hidden, weight, labels, CU, sketch, name="w", bias=optional, token_weights=token_weights)
        gradient = factors(hidden, weight, labels, optional, token_weights)
        exact = grad_sketch_linear(hidden.double(), gradient, CU, sketch, name="w", impl="reference").sketch
        rough = grad_sketch_linear(hidden.float(), gradient.float(), CU, sketch, name="w", impl="reference").sketch
        error, peer = (found - exact).abs().max(), (rough - exact).abs().max()
        assert error <= 2 * peer + 40 * torch.finfo(torch.float32).eps * exact.abs().max()
        assert not found[1].any()


def test_equals_the_projected_gradient_of_autograd(sketch: Sketch) -> None:
    hidden, weight, bias, labels = problem(9, 6, 200, torch.float64)
    weight.requires_grad_()
    loss = torch.nn.functional.cross_entropy(hidden @ weight.T + bias, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, weight)
    expected = project(gradient.flatten()[None], sketch, name="w", shape=(200, 6))
    found = head_sketch(hidden, weight, labels, torch.tensor([0, 9]), sketch, name="w", bias=bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    total = torch.ones_like(found)
    assert head_sketch(hidden, weight, labels, torch.tensor([0, 9]), sketch, name="w", bias=bias, add_to=total) is total
    torch.testing.assert_close(total, found + 1)


def test_bits_do_not_depend_on_the_batch(sketch: Sketch) -> None:
    hidden, weight, bias, labels = problem(40, 10, 300)
    whole = head_sketch(hidden, weight, labels, CU, sketch, name="w", bias=bias)
    alone = head_sketch(hidden[13:], weight, labels[13:], torch.tensor([0, 27]), sketch, name="w", bias=bias)
    assert torch.equal(alone[0], whole[3])


def test_sure_and_masked_labels(sketch: Sketch) -> None:
    """A gradient of 1e-12 keeps its digits; a vocabulary of one, or an impossible label, gives no NaN."""
    hidden, weight = torch.tensor([[1.0, 0.5]]), torch.tensor([[28.0, 0.0], [0.0, 0.0]])
    cu, labels = torch.tensor([0, 1]), torch.tensor([0])
    found = head_sketch(hidden, weight, labels, cu, sketch, name="w")
    exact = factors(hidden, weight, labels, None, torch.ones(1))
    expected = grad_sketch_linear(hidden.double(), exact, cu, sketch, name="w", impl="reference").sketch
    assert 0 < expected.abs().max() < 1e-11
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert not head_sketch(hidden, weight[:1], labels, cu, sketch, name="w").any()
    masked = head_sketch(hidden, weight, labels, cu, sketch, name="w", bias=torch.tensor([-torch.inf, 0]))
    assert masked.isfinite().all()


H, W, Y, Z = torch.zeros(3, 4), torch.zeros(7, 4), torch.zeros(3, dtype=torch.int64), torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((H, W[:, :2], Y, Z), {}, "weight"),
        ((H, W, Y + 7, Z), {}, r"labels\[0\]=7"),
        ((H, W, Y, Z + 1), {}, "cu_seqlens"),
        ((H, W, Y, Z), {"token_weights": torch.ones(2)}, "token_weights"),
        ((H, W, Y, Z), {"add_to": torch.zeros(2, 64)}, "add_to"),
    ],
)
def test_bad_arguments(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head_sketch(*arguments, SKETCHES[0], name="w", **options)
