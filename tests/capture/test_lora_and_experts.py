"""Adapters of peft and mixtures of experts of transformers, against each sample alone through autograd in float64."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from adaptinf_kernels import Sketch, project
from torch import Tensor, nn
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from adaptinf.capture import Segments, capture
from adaptinf.capture.merging import merged_adapters
from adaptinf.errors import UnsupportedModelError

SKETCH = Sketch(kind="sjlt", k=32, seed=1)
SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.4,
}  # fmt: skip
LENGTHS = (4, 1, 6)


def batch() -> tuple[Tensor, Tensor]:
    mask = (torch.arange(6)[None] < torch.tensor(LENGTHS)[:, None]).long()
    return torch.randint(0, 40, (3, 6), generator=torch.Generator().manual_seed(0)), mask


def adapted(**options: object) -> nn.Module:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], **options)  # pyright: ignore[reportArgumentType]
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def mixture(family: str) -> nn.Module:
    torch.manual_seed(0)
    if family == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2))
    return GptOssForCausalLM(GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, layer_types=None))


def loss_of(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    logits = model(input_ids=ids, attention_mask=mask).logits
    return ((logits.square().sum(-1) / 40 + logits[..., 3]) * mask).sum()


def sketched(name: str, gradient: Tensor) -> Tensor:
    """A weight, a vector, or a weight (or vector) of every expert under a name of its own."""
    if "experts" in name and not name.endswith("]"):
        return torch.stack([sketched(f"{name}[{e}]", part) for e, part in enumerate(gradient)]).sum(0)
    matrix = gradient if gradient.dim() > 1 else gradient[None]
    return project(matrix[None], SKETCH, name=name)[0].double()


def alone(model: nn.Module, names: list[str]) -> tuple[Tensor, Tensor]:
    ids, mask = batch()
    parameters = dict(model.named_parameters())
    rows, norms = [], []
    for row, length in enumerate(LENGTHS):
        loss = loss_of(model, ids[row : row + 1, :length], mask[row : row + 1, :length])
        gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
        rows.append(torch.stack([sketched(n, g) for n, g in zip(names, gradients, strict=True)]).sum(0))
        norms.append(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())
    return torch.stack(rows), torch.stack(norms)


def check(model: nn.Module, names: list[str], targets: object) -> None:
    ids, mask = batch()
    reference = copy.deepcopy(model).double()
    if hasattr(model.config, "num_local_experts"):
        reference.set_experts_implementation("eager")  # the only one with a float64 # pyright: ignore[reportCallIssue]
    with capture(model, targets=targets, sketch=SKETCH, scores=["grad_norm"]) as captured:  # pyright: ignore[reportArgumentType]
        captured.begin(Segments.mask(mask))
        loss_of(model, ids, mask).backward()
        found = captured.result()
    model.zero_grad()
    truth, peer = alone(reference, names), alone(model, names)
    for ours, exact, rough in ((found.sketch, truth[0], peer[0]), (found.scores["grad_norm"], truth[1], peer[1])):
        assert ours is not None
        rounding = 256 * torch.finfo(torch.float32).eps * exact.abs().max()
        assert (ours.double() - exact).abs().max() <= 2 * (rough - exact).abs().max() + rounding
        assert exact.abs().max() > 1e-2


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("merged", [False, True])
def test_adapters(rslora: bool, merged: bool) -> None:
    model = adapted(use_rslora=rslora)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(names) == 8
    if not merged:
        check(model, names, "trainable")
        return
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ids, mask = batch()
    with merged_adapters(model, names), capture(model, sketch=SKETCH) as captured:
        assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
        captured.begin(Segments.mask(mask))
        loss_of(model, ids, mask).backward()
        found = captured.result().sketch
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    truth = alone(copy.deepcopy(model).double(), names)[0]
    peer = (alone(model, names)[0] - truth).abs().max()
    assert (found.double() - truth).abs().max() <= 2 * peer + 256 * 2**-23 * truth.abs().max()


def test_half_an_adapter_and_dropout_are_followed_through_a_and_b_themselves() -> None:
    model = adapted()
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    check(model, names, names)
    model = adapted(lora_dropout=0.5)
    ids, mask = batch()
    with capture(model, sketch=SKETCH) as captured:
        captured.begin(Segments.mask(mask))
        loss_of(model, ids, mask).backward()
        found = captured.result().sketch
    parts = [sketched(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    torch.testing.assert_close(found.double().sum(0), torch.stack(parts).sum(0), rtol=1e-4, atol=1e-4)


def test_what_is_not_plain_lora_is_refused_by_name() -> None:
    with (
        pytest.raises(UnsupportedModelError, match=r"lora_magnitude_vector.*DoRA's magnitude"),
        capture(adapted(use_dora=True), sketch=SKETCH),
    ):
        pass


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_fused_experts(family: str, implementation: str) -> None:
    model = mixture(family)
    model.set_experts_implementation(implementation)
    names = [name for name, _ in model.named_parameters() if "experts" in name]
    assert len(names) == (4 if family == "mixtral" else 8)
    check(model, names, "*.experts.*")


@pytest.mark.parametrize("what", ["adapters", "experts"])
def test_parameters_apart_add_up(what: str) -> None:
    model = adapted() if what == "adapters" else mixture("mixtral")
    chosen = "trainable" if what == "adapters" else "*.experts.*"
    together, apart = (observed(model, targets=chosen, per_parameter=per_parameter) for per_parameter in (False, True))
    names = [n for n, p in model.named_parameters() if p.requires_grad and (what == "adapters" or "experts" in n)]
    assert apart.shape == (len(LENGTHS), len(names), SKETCH.k)
    torch.testing.assert_close(apart.sum(1), together)
    for place, name in enumerate(names):
        torch.testing.assert_close(apart[:, place], observed(model, targets=[name]))


def observed(model: nn.Module, **options: object) -> Tensor:
    ids, mask = batch()
    with capture(model, sketch=SKETCH, **options) as captured:  # pyright: ignore[reportArgumentType]
        captured.begin(Segments.mask(mask))
        loss_of(model, ids, mask).backward()
        found = captured.result().sketch
    assert found is not None
    return found


def test_a_router_is_refused_by_name_not_skipped() -> None:
    with (
        pytest.raises(UnsupportedModelError, match=r"mlp\.gate\.weight: belongs to MixtralTopKRouter"),
        capture(mixture("mixtral"), sketch=SKETCH),
    ):
        pass
