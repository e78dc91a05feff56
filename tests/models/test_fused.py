"""A frozen model's norms, gates and attention run natively: the same up to rounding, and as before afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, LlamaConfig, PreTrainedModel
from transformers.models.gemma.modeling_gemma import GemmaForCausalLM
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaMLP, LlamaRMSNorm

from adaptinf.models import fused
from adaptinf.models.fused import fused_layers

SIZES = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50,
    "max_position_embeddings": 64,
}  # fmt: skip


def llama(**changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).eval().requires_grad_(False)


def passes(model: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Hidden states of a padded batch, and the gradient of a sum of them with respect to the embeddings."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 19, 24, generator=generator).to(dtype).requires_grad_()
    mask = torch.ones(3, 19, dtype=torch.int64)
    mask[1, 12:] = 0
    weights = torch.randn(3, 19, 24, generator=generator) * mask[..., None]
    y = model.model(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state
    (slope,) = torch.autograd.grad((y * weights.to(dtype)).sum(), x)
    return y.detach() * mask[..., None], slope


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each native operation is run."""
    counts = dict.fromkeys(("attention", "rms_norm", "rotary", "swiglu"), 0)

    def counted(name: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: object, **kwargs: object) -> Tensor:
            counts[name] += 1
            return run(*args, **kwargs)

        return call

    for name in counts:
        monkeypatch.setattr(fused, name, counted(name, getattr(fused, name)))
    return counts


@pytest.mark.parametrize(
    "changes", [{}, {"num_key_value_heads": 2}, {"attention_bias": True, "mlp_bias": True}], ids=str
)
def test_as_near_to_float64_as_torch_is(changes: dict[str, object], calls: dict[str, int]) -> None:
    model = llama(**changes)
    theirs = passes(model)
    with fused_layers(model):
        ours = passes(model)
    assert calls == {"attention": 2, "rms_norm": 5, "rotary": 4, "swiglu": 2}
    exact = passes(model.double(), torch.float64)
    for a, b, truth in zip(ours, theirs, exact, strict=True):
        rounding = 8 * torch.finfo(torch.float32).eps * truth.abs().max()
        assert (a - truth).abs().max() <= 2 * (b - truth).abs().max() + rounding
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_it_leaves_alone(calls: dict[str, int]) -> None:
    """Other activations, other norms, other dtypes, autocast, what trains, and attention by other means."""
    gelu, gemma = (
        llama(hidden_act="gelu"),
        GemmaForCausalLM(GemmaConfig(**SIZES, num_key_value_heads=4, head_dim=6)).requires_grad_(False),
    )
    eager = llama(attn_implementation="eager")
    expected = (
        {"attention": 2, "rms_norm": 5, "rotary": 4},
        {"attention": 2, "rotary": 4},
        {"rms_norm": 5, "rotary": 4, "swiglu": 2},
    )
    for model, ran in zip((gelu, gemma, eager), expected, strict=True):
        before = dict(calls)
        with fused_layers(model):
            passes(model)
        assert {name: calls[name] - before[name] for name in calls if calls[name] > before[name]} == ran
    model = llama()
    before = dict(calls)
    with fused_layers(model):
        passes(model.double(), torch.float64)
        model.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            passes(model)
    assert calls == before


def thirds(x: Tensor) -> Tensor:
    """transformers' ``rotate_half`` but for a constant."""
    x1 = x[..., : x.shape[-1] // 3]
    x2 = x[..., x.shape[-1] // 3 :]
    return torch.cat((-x2, x1), dim=-1)


def test_another_rotation_stays(calls: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "rotate_half", thirds)
    model = llama()
    expected = passes(model)
    with fused_layers(model):
        found = passes(model)
    assert calls["attention"] == 2 and not calls["rotary"]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, expected, strict=True))


class Doubled(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Mirrored(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


@pytest.mark.parametrize("kind", [Doubled, Mirrored])
def test_a_subclass_keeps_its_own_forward(kind: type[LlamaMLP], calls: dict[str, int]) -> None:
    module = kind(LlamaConfig(**SIZES)).requires_grad_(False)
    x = torch.randn(3, 24)
    expected = module(x)
    with fused_layers(module):
        assert torch.equal(module(x), expected)
    assert not calls["swiglu"]


def test_hooks_see_what_they_always_saw() -> None:
    module = LlamaMLP(LlamaConfig(**SIZES)).requires_grad_(False)
    seen: list[tuple[str, Tensor]] = []
    for name, child in (("mlp", module), *module.named_children()):
        child.register_forward_hook(
            lambda _, args, y, name=name: seen.append((name, args[0] if name == "down_proj" else y))
        )
    x = torch.randn(3, 24)
    module(x)
    plain, seen[:] = list(seen), []
    with fused_layers(module):
        module(x)
    assert [name for name, _ in seen] == [name for name, _ in plain]
    assert all(torch.allclose(a, b, atol=1e-6) for (_, a), (_, b) in zip(seen, plain, strict=True))


def test_a_norm_that_trains_gets_its_gradient(calls: dict[str, int]) -> None:
    module = LlamaRMSNorm(8)
    x = torch.randn(5, 8)
    with fused_layers(module):
        module(x).sum().backward()
        assert not calls["rms_norm"]
        module.requires_grad_(False)
        module(x)
        assert calls["rms_norm"] == 1
    expected = (x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).sum(0)
    assert module.weight.grad is not None
    assert torch.allclose(module.weight.grad, expected, rtol=1e-5, atol=1e-6)


def test_nesting() -> None:
    module = nn.ModuleList([LlamaRMSNorm(8).requires_grad_(False)])
    with fused_layers(module):
        with fused_layers(module):
            module[0](torch.ones(2, 8))
        assert "forward" in vars(module[0])
    assert "forward" not in vars(module[0])


def test_compiled_inside() -> None:
    torch.compiler.reset()
    model = llama()
    expected = passes(model)
    with fused_layers(model):
        model.model.compile(backend="aot_eager")
        found = passes(model)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, expected, strict=True))
    torch.compiler.reset()
