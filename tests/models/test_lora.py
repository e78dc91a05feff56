"""Adapters: where they go, how they begin, and their way to the disk and back."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptinf.config import LoraConfig
from adaptinf.errors import AdapterMismatchError, ArtefactError, ConfigError
from adaptinf.models import add_lora, load_adapter, merge_lora, remove_lora, save_adapter, trainable_parameters


def logits(lm, samples):
    with torch.no_grad():
        return lm.logits(lm.encoder.collate([lm.encoder.encode(sample) for sample in samples]))


def disturb(lm, seed=0):
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in trainable_parameters(lm):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("family", ["llama", "gpt2", "llava", "qwen2_5_vl", "idefics3"])
def test_only_the_decoder_layers_linears_get_an_adapter(tiny, family, text_samples):
    lm = tiny(family)
    before = logits(lm, text_samples)
    linear = 4 if family == "gpt2" else 7
    add_lora(lm, LoraConfig(r=2, alpha=4), seed=1)
    torch.testing.assert_close(logits(lm, text_samples), before)
    layers = [name for name, _ in lm.decoder_layers]
    trainable = trainable_parameters(lm)
    assert len(trainable) == 3 * linear * 2
    assert all(any(name.startswith(layer + ".") for layer in layers) for name, _ in trainable)
    assert all("lora_" in name for name, _ in trainable)
    assert lm.head is not None
    disturb(lm)
    after = logits(lm, text_samples)
    assert not torch.allclose(after, before, atol=1e-2)
    encoded = [lm.encoder.encode(sample) for sample in text_samples]
    batch = lm.encoder.collate(encoded)
    torch.testing.assert_close(lm.head(lm.hidden_states(batch)), after)


def test_the_seed_alone_decides_the_weights(tiny):
    states = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        lm = tiny("llama")
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        add_lora(lm, LoraConfig(r=4), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append({name: p.detach().clone() for name, p in trainable_parameters(lm)})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    a = [name for name in states[0] if "lora_A" in name]
    assert not any(torch.equal(states[0][name], states[2][name]) for name in a)
    assert len({states[0][name].double().sum().item() for name in a}) == len(a)
    for name, value in states[0].items():
        bound = value.shape[1] ** -0.5
        assert float(value.abs().max()) <= (bound if "lora_A" in name else 0.0)
        if "lora_A" in name:
            assert abs(float(value.std()) - bound / 3**0.5) < 0.2 * bound


def test_named_targets_and_scale(tiny):
    lm = tiny("llama")
    add_lora(lm, LoraConfig(r=4, alpha=8, rslora=True, target_modules=["q_proj", "mlp.up_proj"]), seed=0)
    names = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in trainable_parameters(lm)}
    assert names == {"q_proj", "up_proj"}
    layer = lm.decoder_layers[0][1].self_attn.q_proj
    assert layer.scaling["default"] == pytest.approx(8 / 4**0.5)
    with pytest.raises(ConfigError, match=r"'nope'[\s\S]*q_proj"):
        add_lora(tiny("llama"), LoraConfig(target_modules=["nope"]), seed=0)
    with pytest.raises(ConfigError, match="already"):
        add_lora(lm, LoraConfig(), seed=0)


@pytest.mark.parametrize("family", ["llama", "llava"])
def test_saved_adapters_come_back(tiny, family, text_samples, tmp_path):
    lm = tiny(family)
    add_lora(lm, LoraConfig(r=2, alpha=6), seed=0)
    disturb(lm)
    wanted = logits(lm, text_samples)
    save_adapter(lm, tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    fresh = tiny(family)
    load_adapter(fresh, tmp_path / "a")
    assert torch.equal(logits(fresh, text_samples), wanted)
    assert len(trainable_parameters(fresh)) == len(trainable_parameters(lm))
    assert fresh.identity() == lm.identity()
    add_again = tiny(family)
    add_lora(add_again, LoraConfig(r=2, alpha=6), seed=9)
    assert add_again.identity()["adapter"] != lm.identity()["adapter"]
    assert add_again.identity()["weights"] == lm.identity()["weights"]
    load_adapter(add_again, tmp_path / "a")
    assert torch.equal(logits(add_again, text_samples), wanted)
    by_peft = peft.PeftModel.from_pretrained(tiny(family).model, tmp_path / "a").eval()
    batch = lm.to_device(lm.encoder.collate([lm.encoder.encode(sample) for sample in text_samples]))
    with torch.no_grad():
        assert torch.equal(by_peft(**batch).logits, wanted)
    save_adapter(fresh, tmp_path / "b")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_merging_and_removing(tiny, text_samples):
    lm = tiny("llama")
    plain = logits(lm, text_samples)
    weights = lm.identity()["weights"]
    add_lora(lm, LoraConfig(r=2), seed=0)
    disturb(lm)
    tuned = logits(lm, text_samples)
    assert lm.identity()["weights"] == weights
    remove_lora(lm)
    torch.testing.assert_close(logits(lm, text_samples), plain)
    assert lm.identity()["weights"] == weights
    assert lm.identity()["adapter"] == "none"
    add_lora(lm, LoraConfig(r=2), seed=0)
    disturb(lm)
    merge_lora(lm)
    torch.testing.assert_close(logits(lm, text_samples), tuned, rtol=1e-3, atol=1e-2)
    assert lm.identity()["weights"] != weights
    add_lora(lm, LoraConfig(r=2), seed=0)


def test_adapters_that_do_not_fit(tiny, tmp_path):
    lm = tiny("llama")
    add_lora(lm, LoraConfig(r=2), seed=0)
    save_adapter(lm, tmp_path / "a")
    state = load_file(tmp_path / "a" / "adapter_model.safetensors")
    names = sorted(state)

    def variant(name, state, **config):
        folder = tmp_path / name
        folder.mkdir()
        text = json.loads((tmp_path / "a" / "adapter_config.json").read_text()) | config
        (folder / "adapter_config.json").write_text(json.dumps(text))
        save_file(state, folder / "adapter_model.safetensors")
        return folder

    missing = variant("missing", {name: state[name] for name in names[1:]})
    unexpected = variant("unexpected", state | {"else.lora_A.weight": torch.zeros(2, 2)})
    shape = variant("shape", state | {names[0]: torch.zeros(3, 3)})
    for folder, text in (
        (missing, f"1 missing: {names[0]}"),
        (unexpected, "1 unexpected: else"),
        (shape, "another shape"),
    ):
        for other in (tiny("llama"), lm):
            before = {name: p.detach().clone() for name, p in other.model.named_parameters()}
            with pytest.raises(AdapterMismatchError, match=text):
                load_adapter(other, folder)
            after = dict(other.model.named_parameters())
            assert before.keys() == after.keys()
            assert all(torch.equal(value, after[name]) for name, value in before.items())
    with pytest.raises(AdapterMismatchError, match="lora_alpha"):
        load_adapter(lm, variant("scale", state, lora_alpha=5))
    with pytest.raises(AdapterMismatchError, match="not a LoRA"):
        load_adapter(lm, variant("kind", state, peft_type="IA3"))
    with pytest.raises(AdapterMismatchError):
        load_adapter(tiny("gpt2"), tmp_path / "a")
    with pytest.raises(ArtefactError, match="no readable adapter"):
        load_adapter(lm, tmp_path)
    with pytest.raises(AdapterMismatchError, match="no adapter"):
        save_adapter(tiny("llama"), tmp_path / "none")
