"""Random adapters written by peft, and what peft says that they add."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import torch

from adaptinf.models import LanguageModel

IDS = torch.arange(1, 13).reshape(2, 6)
TARGETS = ("q_proj", "down_proj")
ROUNDING = 2.0**-24
"""Relative error of a number rounded to float32."""


def written_by_peft(base, folder: Path, seed: int, **settings) -> Path:
    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM"} | settings
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def loaded(base, folder: Path) -> peft.PeftModel:
    """As anybody would, in float64."""
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).double().eval()


def deltas(base, folder: Path, absolute: bool = False) -> dict[str, torch.Tensor]:
    """What peft says that the adapter adds to each weight."""
    found = {}
    for name, module in loaded(base, folder).get_base_model().named_modules():
        if isinstance(module, peft.tuners.lora.Linear):
            if absolute:
                for weight in (*module.lora_A.parameters(), *module.lora_B.parameters()):
                    weight.data.abs_()
            found[name] = module.get_delta_weight("default").detach()
    return found


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def with_sum(base, total: dict[str, torch.Tensor]):
    model = copy.deepcopy(base).double()
    with torch.no_grad():
        for name, delta in total.items():
            model.get_submodule(name).weight += delta
    return model


def as_lm(model, name="model") -> LanguageModel:
    """What add_to_base reads of a LanguageModel; it has no need of a tokenizer."""
    lm = LanguageModel.__new__(LanguageModel)
    lm.model, lm.name = model, name
    return lm


WEIGHTS = [1.0, -0.5, 0.3, 2.0]


def summed(base, folders, weights) -> dict[str, torch.Tensor]:
    each = [deltas(base, folder) for folder in folders]
    return {name: sum(w * one[name] for w, one in zip(weights, each, strict=True)) for name in each[0]}
