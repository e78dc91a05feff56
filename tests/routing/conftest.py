"""Requests whose vectors are given, and a tiny Llama that makes some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from adaptinf.config import LoraConfig
from adaptinf.data import Sample
from adaptinf.models import LanguageModel, add_lora, save_adapter, wrap
from tests import tiny_tokenizers

from .merging_cases import written_by_peft


class Given:
    """An encoder that looks vectors up by the sample's id."""

    def __init__(self, vectors: dict[str, np.ndarray], name: str = "given") -> None:
        self.vectors, self.name, self.flops = vectors, name, 0.0

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        return torch.tensor(np.stack([self.vectors[sample.id] for sample in samples]), dtype=torch.float32)

    def identity(self) -> dict[str, str]:
        return {"encoder": self.name}


def request(id: str, task: str = "", text: str = "hello") -> Sample:
    return Sample.from_instruction(id, text, "", task=task)


@pytest.fixture
def blobs() -> Callable[..., tuple[dict[str, list[Sample]], Given]]:
    """``blobs(tasks, per_task)``: well separated groups of vectors, one a task."""

    def make(tasks: int = 4, per_task: int = 30, *, seed: int = 0, width: int = 12, spread: float = 0.25):
        rng = np.random.default_rng(seed)
        centres = np.eye(tasks, width) + 0.5
        vectors, samples = {}, {}
        for task in range(tasks):
            name = f"task{task}"
            samples[name] = [request(f"{name}-{i}", name) for i in range(per_task)]
            for sample in samples[name]:
                vectors[sample.id] = centres[task] + spread * rng.normal(size=width) / np.sqrt(width)
        return samples, Given(vectors)

    return make


@pytest.fixture(scope="session")
def llama() -> Callable[[], LanguageModel]:
    """A new tiny Llama with the same weights at every call."""
    tokenizer = tiny_tokenizers.of_bytes()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )

    def make() -> LanguageModel:
        torch.manual_seed(0)
        return wrap(LlamaForCausalLM(config).eval(), tokenizer, name="tiny-llama")

    return make


SETTINGS = {
    "a": LoraConfig(r=4, alpha=8),
    "b": LoraConfig(r=2, alpha=2, target_modules=["q_proj", "down_proj"]),
    "c": LoraConfig(r=7, alpha=3, rslora=True),
}
"""Adapters of different ranks, scales and targets."""


@pytest.fixture(scope="session")
def saved(llama: Callable[[], LanguageModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("adapters")
    for number, (name, config) in enumerate(SETTINGS.items()):
        lm = llama()
        add_lora(lm, config, seed=number)
        torch.manual_seed(number)
        for key, weight in lm.model.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(weight, std=0.2)
        save_adapter(lm, place / name)
    return {name: place / name for name in SETTINGS}


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> LlamaForCausalLM:
    """Three layers, saved, so that adapters can name it."""
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    model.name_or_path = str(folder)
    return model


@pytest.fixture
def make(base, tmp_path) -> Callable[..., Path]:
    """``make(name, seed, **settings of peft)``: a random adapter, written by peft."""
    return lambda name, seed=0, **settings: written_by_peft(base, tmp_path / name, seed, **settings)


@pytest.fixture
def unlike(make) -> list[Path]:
    """Four adapters of unequal rank, alpha and rule of scaling."""
    return [
        make("a", 1, r=4, lora_alpha=8),
        make("b", 2, r=2, lora_alpha=3),
        make("c", 3, r=3, lora_alpha=5, use_rslora=True),
        make("d", 4, r=4, lora_alpha=4, rank_pattern={"down_proj": 2}, alpha_pattern={r"layers\.1\..*q_proj": 9}),
    ]
