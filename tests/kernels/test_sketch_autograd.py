"""The ops on what a layer sees against autograd on each sample alone: layers of torch, peft and transformers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import peft
import pytest
import torch
from adaptinf_kernels import (
    GradSketch,
    Sketch,
    grad_sketch_bias,
    grad_sketch_embedding,
    grad_sketch_linear,
    grad_sketch_lora,
    grad_sketch_norm,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.kernels import sketch_cases as cases
from tests.kernels import sketch_oracle as oracle

LENGTHS = (7, 1, 20)
CU = torch.tensor([0, *itertools.accumulate(LENGTHS)])
SKETCH = Sketch("sjlt", 48, nonzeros=2)


class Observed:
    """A layer run on the samples' tokens, with what it saw and the exact sketch of its parameters' gradients."""

    def __init__(self, layer: nn.Module, inputs: Tensor, names: dict[str, str]) -> None:
        """``names``: parameter of the layer -> name of the sketch."""
        self.layer = layer.double()
        wanted = [layer.get_parameter(parameter) for parameter in names]
        rows: dict[str, list[Tensor]] = {name: [] for name in names.values()}
        outputs = []
        for start, stop in itertools.pairwise(CU.tolist()):
            output = layer(inputs[start:stop])
            loss = torch.sin(output * torch.linspace(0.5, 2, output.shape[-1])).sum() / (stop - start)
            of_output, *gradients = torch.autograd.grad(loss, [output, *wanted])
            outputs.append(of_output)
            for name, gradient in zip(names.values(), gradients, strict=True):
                rows[name].append(gradient)
        self.grad_out = torch.cat(outputs).float()
        self.gradients = {name: torch.stack(parts) for name, parts in rows.items()}

    def check(self, found: GradSketch, shapes: dict[str, tuple[int, int]]) -> None:
        z, squares = np.zeros((len(LENGTHS), SKETCH.k)), np.zeros(len(LENGTHS))
        for name, gradients in self.gradients.items():
            flat = gradients.flatten(1).numpy()
            z += flat @ oracle.dense(oracle.matrix(SKETCH, name, shapes[name])).T
            squares += (flat**2).sum(1)
        assert found.squared_norms is not None
        torch.testing.assert_close(found.sketch, torch.from_numpy(z).float(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.squared_norms, torch.from_numpy(squares).float(), rtol=1e-5, atol=1e-6)


@pytest.fixture
def x() -> Tensor:
    return cases.random(sum(LENGTHS), 13).double()


@pytest.mark.parametrize("impl", cases.implementations("grad_sketch_linear"))
def test_linear_and_its_bias(impl: str, x: Tensor) -> None:
    layer = nn.Linear(13, 9)
    seen = Observed(layer, x, {"weight": "w", "bias": "b"})
    options = {"return_norms": True, "impl": impl}
    weight = grad_sketch_linear(x.float(), seen.grad_out, CU, SKETCH, name="w", **options)
    bias = grad_sketch_bias(seen.grad_out, CU, SKETCH, name="b", **options)
    both = GradSketch(weight.sketch + bias.sketch, weight.squared_norms + bias.squared_norms)
    seen.check(both, {"w": (9, 13), "b": (1, 9)})


@pytest.mark.parametrize("impl", cases.implementations("grad_sketch_linear"))
def test_conv1d_is_a_transposed_linear(impl: str, x: Tensor) -> None:
    seen = Observed(Conv1D(9, 13), x, {"weight": "w"})
    found = grad_sketch_linear(seen.grad_out, x.float(), CU, SKETCH, name="w", return_norms=True, impl=impl)
    seen.check(found, {"w": (13, 9)})


@pytest.mark.parametrize("impl", cases.implementations("grad_sketch_lora"))
@pytest.mark.parametrize(
    ("settings", "scaling"),
    [({}, 16 / 4), ({"use_rslora": True}, 16 / 4**0.5), ({"use_dora": True}, 4.0), ({"lora_bias": True}, 4.0)],
    ids=["plain", "rsLoRA", "DoRA", "with a bias"],
)
def test_adapters_of_peft(settings: dict, scaling: float, impl: str, x: Tensor) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(13, 9))
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["0"], init_lora_weights=False, **settings)
    layer = peft.get_peft_model(base, config).base_model.model[0].double()
    a, b = layer.lora_A["default"], layer.lora_B["default"]
    assert layer.scaling["default"] == scaling
    magnitude = None
    if "use_dora" in settings:
        adapted = layer.base_layer.weight + scaling * b.weight @ a.weight
        trained = layer.lora_magnitude_vector["default"].weight  # starts as the norms: then its effect would be none
        trained.data *= torch.linspace(0.5, 2, 9)
        magnitude = (trained / adapted.norm(dim=1)).detach().float()
    seen = Observed(layer, x, {"lora_A.default.weight": "A", "lora_B.default.weight": "B"})
    found = grad_sketch_lora(
        x.float(), seen.grad_out, a.weight.detach().float(), b.weight.detach().float(), CU, SKETCH, names=("A", "B"),
        scaling=scaling, magnitude=magnitude, return_norms=True, impl=impl,
    )  # fmt: skip
    seen.check(found, {"A": (4, 13), "B": (9, 4)})


@pytest.mark.parametrize("impl", cases.implementations("grad_sketch_embedding"))
@pytest.mark.parametrize("padding_idx", [None, 3, -1])
def test_embedding(padding_idx: int | None, impl: str) -> None:
    ids = torch.arange(sum(LENGTHS)) ** 2 % 11
    seen = Observed(nn.Embedding(11, 6, padding_idx=padding_idx), ids, {"weight": "e"})
    options = {"name": "e", "vocabulary": 11, "padding_idx": padding_idx, "return_norms": True, "impl": impl}
    seen.check(grad_sketch_embedding(ids, seen.grad_out, CU, SKETCH, **options), {"e": (11, 6)})


@pytest.mark.parametrize("impl", cases.implementations("grad_sketch_vector"))
@pytest.mark.parametrize(
    ("layer", "normalise"),
    [
        (nn.LayerNorm(13), lambda x: nn.functional.layer_norm(x, (13,))),
        (nn.RMSNorm(13, eps=1e-6), lambda x: nn.functional.rms_norm(x, (13,), eps=1e-6)),
    ],
    ids=["LayerNorm", "RMSNorm"],
)
def test_norm_layers(layer: nn.Module, normalise: Callable[[Tensor], Tensor], impl: str, x: Tensor) -> None:
    seen = Observed(layer, x, {"weight": "n"})
    found = grad_sketch_norm(normalise(x).float(), seen.grad_out, CU, SKETCH, name="n", return_norms=True, impl=impl)
    seen.check(found, {"n": (1, 13)})
