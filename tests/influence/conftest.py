"""A tiny Llama with a real tokenizer, built without a network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adaptinf.models import LanguageModel, wrap
from tests import tiny_tokenizers

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
TEXT = ["what is the colour of the circle", "is there a blue square", "two red triangles", "yes", "no"]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizers.trained(TEXT, 300, SPECIAL, template=TEMPLATE, eos_token="<|end|>", pad_token="<pad>")


@pytest.fixture
def make_lm(tokenizer: PreTrainedTokenizerFast) -> Callable[..., LanguageModel]:
    """``make_lm(width=32, layers=4, dtype=..., attention=...)``: the same weights at every call."""

    def make(
        *, width: int = 32, layers: int = 4, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
    ) -> LanguageModel:
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.15,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
            tie_word_embeddings=False,
            attn_implementation=attention,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlamaForCausalLM(config)
        return wrap(model.to(dtype).eval(), tokenizer, name="tiny-llama")

    return make
