"""A batch through many adapters at once, against a pass for every adapter and against peft's ``adapter_names``.

Interleaved in one process, and only where all ways give the same tokens.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from adaptinf.routing.adapters import Adapter, Factors
from adaptinf.routing.dispatch import dispatched

BATCH, ADAPTERS, RANK, PROMPT, TOKENS = 32, 8, 16, 40, 32
SHAPES = {"576 wide, 6 layers": (576, 1536, 6, 9, 3), "1024 wide, 4 layers": (1024, 2816, 4, 16, 8)}
REPEATS = 5


def measure(threads: int) -> Iterator[dict[str, Any]]:
    """A row for each of ``SHAPES``: the median over the rounds of each way's time, over that of ours in the same round.

    Raises RuntimeError where the ways do not give the same tokens: no time is given then.
    """
    torch.set_num_threads(threads)
    for name, shape in SHAPES.items():
        ways = _ways(*shape)
        expected = ways["a pass for every adapter"]()
        for way, run in ways.items():
            if not torch.equal(run(), expected):
                raise RuntimeError(f"{way} gives other tokens: no time is taken")
        rounds: list[dict[str, float]] = []
        for _ in range(REPEATS):
            times = {}
            for way, run in ways.items():
                started = time.perf_counter()
                run()
                times[way] = time.perf_counter() - started
            rounds.append(times)
        yield {
            "study": "dispatch",
            "model": name,
            "threads": threads,
            **{
                f"{way} / ours": median(times[way] / times["ours"] for times in rounds) for way in ways if way != "ours"
            },
        }


def _ways(width: int, inner: int, layers: int, heads: int, groups: int) -> dict[str, Callable[[], Tensor]]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=512,
        pad_token_id=2,
    )
    base = LlamaForCausalLM(config).eval()
    names = [f"a{i}" for i in range(ADAPTERS)]
    lora = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, lora)
    for name, weight in model.named_parameters():
        weight.requires_grad_(False)
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.eval()
    ids = torch.randint(3, 8000, (BATCH, PROMPT))
    rows = [names[i % ADAPTERS] for i in range(BATCH)]
    adapters = {name: _factors(model, name) for name in names}

    def generate(through: Any, some: Tensor, **more: Any) -> Tensor:
        length = GenerationConfig(max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, pad_token_id=2)
        made = through.generate(input_ids=some, attention_mask=torch.ones_like(some), generation_config=length, **more)
        return made[:, PROMPT:]

    def each() -> Tensor:
        out = torch.empty(BATCH, TOKENS, dtype=torch.long)
        for name in names:
            model.set_adapter(name)
            at = [i for i, row in enumerate(rows) if row == name]
            out[at] = generate(model, ids[at])
        return out

    def ours() -> Tensor:
        with model.disable_adapter(), dispatched(base, rows, adapters):
            return generate(base, ids)

    return {
        "a pass for every adapter": each,
        "peft adapter_names": lambda: generate(model, ids, adapter_names=rows),
        "ours": ours,
    }


def _factors(model: Any, name: str) -> Adapter:
    """Where peft's layers are, so that ours is put around the same modules."""
    found = {}
    for path, module in model.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            a, b = module.lora_A[name].weight, module.lora_B[name].weight * module.scaling[name]
            found[path] = Factors(a.T.contiguous(), b.T.contiguous())
    return Adapter(Path(tempfile.gettempdir()), found)
