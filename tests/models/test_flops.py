"""The counted operations against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from adaptinf.config import LoraConfig
from adaptinf.models import add_lora


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_forward_and_backward(tiny, family, text_samples):
    lm = tiny(family, "eager")
    batch = lm.encoder.collate([lm.encoder.encode(text_samples[1])])
    length = batch["input_ids"].shape[1]
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        lm.logits(batch)
    assert lm.flops([length]) == pytest.approx(forward.get_total_flops(), rel=0.01)
    with FlopCounterMode(display=False) as full:
        lm.logits(batch).sum().backward()
    counted = lm.flops([length], backward_layers=3, weight_gradients=True)
    assert counted == pytest.approx(full.get_total_flops(), rel=0.02)
    assert lm.flops([length, length]) == 2 * lm.flops([length])
    assert lm.flops([length]) < lm.flops([length], backward_layers=1) < lm.flops([length], backward_layers=3)


def test_an_adapter_needs_no_weight_gradient_of_the_base(tiny, text_samples):
    lm = tiny("llama", "eager")
    add_lora(lm, LoraConfig(r=2), seed=0)
    batch = lm.encoder.collate([lm.encoder.encode(text_samples[1])])
    length = batch["input_ids"].shape[1]
    with FlopCounterMode(display=False) as full:
        lm.logits(batch).sum().backward()
    counted = lm.flops([length], backward_layers=3, weight_gradients=True)
    assert counted == pytest.approx(full.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_vision_tower_is_counted_by_its_pixels(tiny, family, image_samples):
    lm = tiny(family, "eager")
    one = lm.encoder.encode(image_samples[1])
    batch = lm.encoder.collate([one])
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        lm.logits(batch)
    counted = lm.flops([len(one.input_ids)], pixels=batch["pixel_values"].numel())
    assert counted == pytest.approx(forward.get_total_flops(), rel=0.1)
    assert lm.flops([len(one.input_ids)]) < 0.95 * counted
