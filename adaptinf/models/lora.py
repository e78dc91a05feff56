"""LoRA adapters by peft, in its standard directories (Hu et al. 2021; rsLoRA: Kalajdzievski 2023)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adaptinf.config import LoraConfig
from adaptinf.errors import AdapterMismatchError, ArtefactError, ConfigError
from adaptinf.models.language_model import LanguageModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def add_lora(lm: LanguageModel, config: LoraConfig, seed: int) -> None:
    """Put an untrained adapter on the linear layers of ``lm``'s decoder layers and freeze everything else.

    ``all-linear`` means every Linear (or Conv1D) of the decoder layers; a list names them by the end of their names.
    The head and a vision tower never get one. ``A`` is drawn from U(-1/sqrt(in), 1/sqrt(in)) by ``seed`` alone (same
    values on every device; the global random state is untouched), ``B`` is zero, so the model's output is unchanged.
    Raises ConfigError where no layer matches or an adapter is there already.
    """
    if _is_adapted(lm):
        raise ConfigError("has an adapter already", item=lm.name, remedy="merge_lora or remove_lora first")
    _attach(lm, _peft_config(lm, config))
    generator = torch.Generator()
    for index, (name, weight) in enumerate(sorted(_lora_weights(lm))):
        with torch.no_grad():
            if ".lora_A." in name:
                bound = 1 / math.sqrt(weight.shape[1])
                generator.manual_seed(seed * 1_000_003 + index)
                weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)
            else:
                weight.zero_()


def merge_lora(lm: LanguageModel) -> None:
    """Add the adapter to the base weights and take it away."""
    if _is_adapted(lm):
        lm.model = lm.model.merge_and_unload()  # pyright: ignore[reportCallIssue]


def remove_lora(lm: LanguageModel) -> None:
    """Take the adapter away; the base is as it was before."""
    if _is_adapted(lm):
        lm.model = lm.model.unload()  # pyright: ignore[reportCallIssue]


def save_adapter(lm: LanguageModel, directory: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, what ``PeftModel.from_pretrained`` reads.

    The same adapter gives the same bytes.
    """
    model = _adapted(lm)
    described = model.peft_config["default"].to_dict() | {"base_model_name_or_path": lm.name}
    write_adapter(directory, described, get_peft_model_state_dict(model, save_embedding_layers=False))


def load_adapter(lm: LanguageModel, directory: Path) -> None:
    """Give ``lm`` the saved adapter, in place of the weights of the one it has or as a new, trainable one.

    Raises ArtefactError where the directory is no adapter of safetensors, AdapterMismatchError naming the missing,
    unexpected and misshapen weights where it does not fit; the model is then unchanged.
    """
    config, state = read_adapter(directory)
    fresh = not _is_adapted(lm)
    before = lm.model
    try:
        if fresh:
            _attach(lm, config)
        _check(state, get_peft_model_state_dict(lm.model, save_embedding_layers=False), directory)
        if not fresh:
            _check_scaling(lm, config, directory)
    except (ValueError, AdapterMismatchError) as error:
        if fresh and lm.model is not before:
            lm.model = lm.model.unload()  # pyright: ignore[reportCallIssue]
        if isinstance(error, AdapterMismatchError):
            raise
        raise AdapterMismatchError(f"does not fit {lm.name} ({error})", item=str(directory)) from error
    set_peft_model_state_dict(lm.model, state)


def trainable_parameters(lm: LanguageModel) -> list[tuple[str, nn.Parameter]]:
    """``(qualified name, parameter)`` of everything that asks for a gradient."""
    return [(name, parameter) for name, parameter in lm.model.named_parameters() if parameter.requires_grad]


def _attach(lm: LanguageModel, config: peft.LoraConfig) -> None:
    devices = [lm.device] if lm.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        lm.model = peft.get_peft_model(lm.model, config)  # pyright: ignore[reportArgumentType]


def _peft_config(lm: LanguageModel, config: LoraConfig) -> peft.LoraConfig:
    linear = [
        f"{layer_name}.{name}"
        for layer_name, layer in lm.decoder_layers
        for name, module in layer.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    ]
    if config.target_modules == "all-linear":
        chosen = linear
    else:
        wanted = config.target_modules
        unknown = [end for end in wanted if not any(f".{name}".endswith(f".{end}") for name in linear)]
        if unknown:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ConfigError(
                f"no linear layer of {lm.name} is called {unknown[0]!r}",
                item="lora.target_modules",
                remedy=f"choose from {known}",
            )
        chosen = [name for name in linear if any(f".{name}".endswith(f".{end}") for end in wanted)]
    conv1d = any(isinstance(lm.model.get_submodule(name), Conv1D) for name in chosen)
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] - peft multiplies by it, any number does
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        target_modules=sorted(chosen),
        fan_in_fan_out=conv1d,
        bias="none",
    )


def read_adapter(directory: Path) -> tuple[peft.LoraConfig, dict[str, Tensor]]:
    """Settings and weights of a standard directory, as they are written there.

    Raises ArtefactError where it is no adapter of safetensors, AdapterMismatchError where it is no LoRA.
    """
    try:
        described = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        state = load_file(directory / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtefactError(
            f"is no readable adapter ({error})",
            item=str(directory),
            remedy=f"it needs {CONFIG} and {WEIGHTS}; adapters in pickle files are refused",
        ) from error
    if not isinstance(described, dict) or described.get("peft_type") != "LORA":
        raise AdapterMismatchError("is not a LoRA adapter", item=str(directory), remedy="train one with add_lora")
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    try:
        config = peft.LoraConfig(**{key: value for key, value in described.items() if key in known})
    except (TypeError, ValueError) as error:
        raise AdapterMismatchError(f"its configuration is not understood ({error})", item=str(directory)) from error
    config.inference_mode = False
    return config, state


def write_adapter(directory: Path, described: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """The two files of an adapter, from what ``peft.LoraConfig.to_dict`` gives and the weights by peft's names."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: state[name].detach().cpu().contiguous() for name in sorted(state)}, directory / WEIGHTS)
    plain = {key: _plain(value) for key, value in (*described.items(), ("inference_mode", True))}
    (directory / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], directory: Path) -> None:
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in sorted(expected.keys() & found.keys())
            if found[name].shape != expected[name].shape
        ],
    }
    text = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names)
    if text:
        raise AdapterMismatchError(
            text, item=str(directory), remedy="load it into the model and rank it was trained for"
        )


def _check_scaling(lm: LanguageModel, config: peft.LoraConfig, directory: Path) -> None:
    ours = lm.model.peft_config["default"]  # pyright: ignore[reportIndexIssue, reportArgumentType]
    for key in ("r", "lora_alpha", "use_rslora"):
        if getattr(ours, key) != getattr(config, key):
            raise AdapterMismatchError(
                f"was trained with {key}={getattr(config, key)}, the model's adapter has {getattr(ours, key)}",
                item=str(directory),
                remedy="remove_lora first; loading then takes over the adapter's own settings",
            )


def _lora_weights(lm: LanguageModel) -> list[tuple[str, Tensor]]:
    return [(name, weight) for name, weight in lm.model.named_parameters() if ".lora_" in name]


def _is_adapted(lm: LanguageModel) -> bool:
    return isinstance(lm.model, peft.PeftModel)


def _adapted(lm: LanguageModel) -> Any:
    if not _is_adapted(lm):
        raise AdapterMismatchError("has no adapter to save", item=lm.name, remedy="add_lora first")
    return lm.model


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value
