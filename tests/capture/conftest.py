"""Tiny random models with real processors: a Llama and a LLaVA, and samples with text and any number of pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from adaptinf.data import Image, Sample
from adaptinf.models import LanguageModel, wrap
from tests import tiny_tokenizers

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}"
    "{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<pad>", "<|end|>", "<image>", "<|user|>", "<|assistant|>", "<|system|>"]
TEXT = [
    "what is the colour of the circle",
    "is there a blue square",
    "yes",
    "no",
    "two red triangles",
    "Wie heißt das Land?",
]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizers.trained(TEXT, 400, SPECIAL, template=TEMPLATE, eos_token="<|end|>", pad_token="<pad>")


def _text_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )


@pytest.fixture
def make_lm(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], LanguageModel]:
    """``make_lm("llama" | "llava", dtype)``: the same weights at every call."""

    def make(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if family == "llama":
                model, processor = LlamaForCausalLM(_text_config(len(tokenizer))), tokenizer
            else:
                vision = CLIPVisionConfig(
                    hidden_size=16,
                    intermediate_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    image_size=28,
                    patch_size=14,
                    projection_dim=16,
                )
                config = LlavaConfig(
                    vision_config=vision,
                    text_config=_text_config(len(tokenizer)),
                    image_token_index=2,
                    image_seq_length=4,
                )
                model = LlavaForConditionalGeneration(config)
                pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
                processor = LlavaProcessor(
                    pictures, tokenizer, patch_size=14, vision_feature_select_strategy="default",
                    num_additional_image_tokens=1, image_token="<image>", chat_template=TEMPLATE,
                )  # fmt: skip
            for parameter in model.parameters():  # default initialisation is too small to tell gradients apart
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.15)
        return wrap(model.to(dtype).eval(), processor)

    return make


def picture(seed: int) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return Image(data=buffer.getvalue())


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Different lengths; none, one, two and three pictures; one with an earlier answer in its history."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(9):
        words = " ".join(rng.choice(TEXT, 1 + i % 4))
        images = [picture(10 * i + j) for j in range(i % 4)]
        made.append(Sample.from_instruction(f"s{i}", words, str(rng.choice(TEXT)), images=images, task=f"t{i % 2}"))
    return made


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
