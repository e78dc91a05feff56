"""Every family: packed, padded and single samples agree; the head's input; greedy answers; vision inputs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from adaptinf.data import Sample


def logits_alone(lm, encoded):
    with torch.no_grad():
        return [lm.logits(lm.encoder.collate([one]))[0] for one in encoded]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.fixture
def lm_and_samples(request, tiny, text_samples, image_samples):
    family = request.param
    text = family in ("llama", "gpt2", "qwen2", "gemma2", "opt")
    return tiny(family), text_samples if text else image_samples


every_family = pytest.mark.parametrize(
    "lm_and_samples",
    ["llama", "gpt2", "qwen2", "gemma2", "opt", "llava", "qwen2_5_vl", "idefics3", "smolvlm"],
    indirect=True,
)


@every_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(lm_and_samples, side):
    lm, samples = lm_and_samples
    encoded, dropped = lm.encoder.encode_all(samples)
    assert not dropped
    batch = lm.encoder.collate(encoded, padding_side=side)
    with torch.no_grad():
        together = lm.logits(batch)
    for row, mask, wanted in zip(together, batch["attention_mask"].bool(), logits_alone(lm, encoded), strict=True):
        close(row[mask], wanted)


@every_family
def test_hidden_states_are_the_heads_input(lm_and_samples):
    lm, samples = lm_and_samples
    encoded, _ = lm.encoder.encode_all(samples)
    batch = lm.encoder.collate(encoded)
    hidden = lm.hidden_states(batch)
    assert hidden.requires_grad
    assert hidden.shape[:2] == batch["input_ids"].shape
    with torch.no_grad():
        logits = lm.logits(batch)
        output = lm.base.get_output_embeddings()(hidden)
    if lm.base.config.get_text_config().model_type == "gemma2":
        assert lm.head is None
        assert not torch.allclose(output, logits, atol=1e-3)
        torch.testing.assert_close(5 * torch.tanh(output / 5), logits)
    else:
        assert lm.head is not None
        torch.testing.assert_close(output, logits)


@every_family
def test_answer_nll_is_that_of_the_logits(lm_and_samples):
    lm, samples = lm_and_samples
    encoded, _ = lm.encoder.encode_all(samples)
    found = lm.answer_nll(lm.encoder.collate(encoded))
    assert found.requires_grad and found.dtype == torch.float32
    expected = 0.0
    for one, logits in zip(encoded, logits_alone(lm, encoded), strict=True):
        log_p = logits.double().log_softmax(-1)
        expected -= sum(log_p[i - 1, t].item() for i, t in enumerate(one.labels.tolist()) if t != -100)
    assert found.item() == pytest.approx(expected, rel=1e-4)


@every_family
def test_greedy_answers_equal_a_step_by_step_loop(lm_and_samples):
    lm, samples = lm_and_samples
    answers = lm.generate(samples, max_new_tokens=6, batch_size=3)
    assert answers == lm.generate(samples, max_new_tokens=6, batch_size=1)
    for sample, answer in zip(samples, answers, strict=True):
        prompt = lm.encoder.encode_prompt(sample)
        made: list[int] = []
        for _ in range(6):
            ids = torch.cat([prompt.input_ids, torch.tensor(made, dtype=torch.int64)])
            extras = {k: _grown(v, len(made)) if k.endswith("type_ids") else v for k, v in prompt.extras.items()}
            step = dataclasses.replace(prompt, input_ids=ids, labels=ids, extras=extras)
            with torch.no_grad():
                made.append(int(lm.logits(lm.encoder.collate([step]))[0, -1].argmax()))
            if made[-1] in lm.encoder.stop_ids:
                made.pop()
                break
        assert answer == lm.encoder.decode(made)


def _grown(ids, count):
    return torch.cat([ids, torch.zeros(count, dtype=ids.dtype)])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "llava", "idefics3", "smolvlm"])
def test_packed_equals_single(tiny, family, attention, text_samples, image_samples):
    lm = tiny(family, attention)
    assert lm.supports_packing
    encoded, _ = lm.encoder.encode_all(text_samples if family in ("llama", "gpt2", "qwen2") else image_samples)
    batch = lm.encoder.collate(encoded, packed=True)
    assert "attention_mask" not in batch
    with torch.no_grad():
        row = lm.logits(batch)[0]
    bounds = batch["cu_seqlens"].tolist()
    assert bounds[-1] == batch["input_ids"].numel() == sum(len(one.input_ids) for one in encoded)
    for start, end, wanted in zip(bounds[:-1], bounds[1:], logits_alone(lm, encoded), strict=True):
        close(row[start:end], wanted)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "opt"])
def test_models_that_would_mix_packed_samples_are_found(tiny, family):
    """Multimodal rotary positions are computed from a padded batch; OPT ignores restarting positions in its mask."""
    assert not tiny(family).supports_packing


def test_decoder_layers_are_the_language_models(tiny, text_family):
    lm = tiny(text_family)
    layers = lm.decoder_layers
    assert len(layers) == 3
    assert [name.rpartition(".")[2] for name, _ in layers] == ["0", "1", "2"]
    assert all(lm.model.get_submodule(name) is layer for name, layer in layers)


def test_decoder_layers_are_never_the_vision_towers(tiny, image_family):
    names = [name for name, _ in tiny(image_family).decoder_layers]
    assert len(names) == 3
    assert not any("vision" in name or "visual" in name for name in names)
    assert all("language_model" in name or "text_model" in name for name in names)


def test_the_picture_matters_and_zero_and_remove_differ(tiny, image_family, make_picture):
    lm = tiny(image_family)
    samples = [
        Sample.from_instruction("s", "what colour?", "red", images=[make_picture(red)], task="t") for red in (200, 20)
    ]
    kept, other = (lm.encoder.encode(sample) for sample in samples)
    zero, other_zero = (lm.encoder.encode(sample, images="zero") for sample in samples)
    removed = lm.encoder.encode(samples[0], images="remove")
    assert torch.equal(kept.input_ids, zero.input_ids)
    assert len(removed.input_ids) < len(kept.input_ids)
    assert not removed.extras
    assert (kept.n_images, zero.n_images, removed.n_images) == (1, 1, 0)
    a, b, c, d = (logits[-1] for logits in logits_alone(lm, [kept, other, zero, other_zero]))
    assert not torch.allclose(a, b, atol=1e-3)
    assert not torch.allclose(a, c, atol=1e-3)
    close(c, d)
    answer = kept.labels[kept.labels != -100]
    for one in (zero, removed):
        assert torch.equal(one.labels[one.labels != -100], answer)
