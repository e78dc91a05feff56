"""Llama models with random weights, samples of exact lengths, and their per-sample gradients one at a time."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adaptinf.config import LoraConfig
from adaptinf.data import Sample
from adaptinf.models import Encoded, LanguageModel, add_lora, wrap
from benchmarks.case import Setting

SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
_AROUND = 4
"""Tokens of a sample beside its words: two roles, two ends."""


@dataclass(frozen=True)
class Size:
    """A Llama of these widths and ``samples`` samples of ``tokens`` tokens, half of them answer."""

    width: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    samples: int
    tokens: int


TINY = Size(32, 2, 48, 2, 2, 300, 4, 24)
SMALL = Size(256, 4, 688, 4, 4, 2048, 8, 128)
"""4.2 million parameters, a LoRA of rank 8 on every Linear 156,160."""
MEDIUM = Size(768, 6, 2048, 12, 12, 2048, 8, 128)
"""Ten times as large."""
LLAMA_1B = Size(2048, 16, 8192, 32, 8, 128_256, 8, 2048)
LLAMA_8B = Size(4096, 32, 14_336, 32, 8, 128_256, 2, 2048)


def language_model(setting: Setting, size: Size, *, lora: int = 0) -> LanguageModel:
    """The model on the setting's device and in its dtype; ``lora``: rank of an adapter on every Linear, B not zero."""
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        intermediate_size=size.intermediate,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=2 * size.tokens,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(setting.dtype)
    try:
        with torch.random.fork_rng(), torch.device(setting.device):
            torch.manual_seed(1)
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    lm = wrap(model.eval(), tokenizer(size.vocabulary))
    if lora:
        add_lora(lm, LoraConfig(r=lora, alpha=2.0 * lora), seed=0)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(2)
            for name, parameter in lm.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
    lm.model.requires_grad_(False)
    return lm


@functools.cache
def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Words ``w4`` to ``w<vocabulary - 1>``, one token each."""
    ids = {token: index for index, token in enumerate(SPECIAL)}
    ids |= {f"w{index}": index for index in range(len(SPECIAL), vocabulary)}
    core = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<end>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
        extra_special_tokens=SPECIAL[2:],
    )


def samples(size: Size, lengths: Sequence[int]) -> list[Sample]:
    """One sample a length, in tokens; the second half of the words are the answer."""
    draw = random.Random(0)
    made = []
    for index, length in enumerate(lengths):
        words = [f"w{draw.randrange(len(SPECIAL), size.vocabulary)}" for _ in range(length - _AROUND)]
        half = len(words) // 2
        prompt, answer = " ".join(words[:half]), " ".join(words[half:])
        made.append(Sample.from_instruction(f"s{index}", prompt, answer, task="benchmark"))
    return made


def sample_losses(lm: LanguageModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean NLL over each sample's answer tokens, [B]; ``batch`` is collated and padded, on the device."""
    labels = batch["labels"][:, 1:]
    logits = lm.model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    nll = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=-100)
    return nll.view(labels.shape).sum(1) / (labels != -100).sum(1)


def collate(lm: LanguageModel, encoded: Sequence[Encoded]) -> dict[str, Tensor]:
    batch = lm.encoder.collate(encoded, padding_side="right")
    return {name: batch[name].to(lm.device) for name in ("input_ids", "labels")}


def trainable(lm: LanguageModel, names: Sequence[str]) -> Callable[[], dict[str, Tensor]]:
    """A function that lets these parameters alone ask for gradients, and returns them by name.

    Contenders share a model, so each sets the flags at every call; the parameters are looked up once.
    """
    every = list(lm.model.parameters())
    wanted = {name: lm.model.get_parameter(name) for name in names}

    def select() -> dict[str, Tensor]:
        for parameter in every:
            parameter.requires_grad = False
        for parameter in wanted.values():
            parameter.requires_grad = True
        return wanted

    return select


def twin(lm: LanguageModel) -> LanguageModel:
    """The same parameters in modules of its own, so that hooks on one are not run by the other."""
    tensors = {id(tensor): tensor for tensor in (*lm.model.parameters(), *lm.model.buffers())}
    other = copy.copy(lm)
    other.model = copy.deepcopy(lm.model, tensors)
    return other


@dataclass
class Truth:
    """Per-sample gradients by autograd on one sample at a time: the oracle of every gate on a model.

    ``exact`` computes them in a wider dtype than the model's, ``rough`` in the model's own; both hold [n, ...] for each
    parameter name, of the first ``n`` samples. ``exact_sum`` and ``rough_sum`` are the sums over all samples.
    """

    lm: LanguageModel
    encoded: Sequence[Encoded]
    names: Sequence[str]

    @property
    def wider(self) -> torch.dtype:
        return torch.float64 if self.lm.dtype == torch.float32 else torch.float32

    def exact(self, n: int) -> dict[str, Tensor]:
        return self._stacked(self._widened(), n)

    def rough(self, n: int) -> dict[str, Tensor]:
        return self._stacked(self.lm, n)

    def exact_sum(self) -> dict[str, Tensor]:
        return self._summed(self._widened())

    def rough_sum(self) -> dict[str, Tensor]:
        return self._summed(self.lm)

    def _widened(self) -> LanguageModel:
        """A copy in the wider dtype that recomputes activations, as a model for a GPU leaves no room to keep them."""
        lm = copy.copy(self.lm)
        lm.model = copy.deepcopy(self.lm.model).to(self.wider).train()
        lm.base.gradient_checkpointing_enable({"use_reentrant": False})
        return lm

    def _each(self, lm: LanguageModel, n: int) -> Iterator[tuple[Tensor, ...]]:
        wanted = trainable(lm, self.names)()
        for one in self.encoded[:n]:
            loss = sample_losses(lm, collate(lm, [one])).sum()
            yield torch.autograd.grad(loss, list(wanted.values()))
        lm.model.requires_grad_(False)

    def _stacked(self, lm: LanguageModel, n: int) -> dict[str, Tensor]:
        rows = zip(*self._each(lm, n), strict=True)
        return {name: torch.stack(row) for name, row in zip(self.names, rows, strict=True)}

    def _summed(self, lm: LanguageModel) -> dict[str, Tensor]:
        total: list[Tensor] = []
        for gradients in self._each(lm, len(self.encoded)):
            total = [a + b for a, b in zip(total, gradients, strict=True)] if total else list(gradients)
        return dict(zip(self.names, total, strict=True))
