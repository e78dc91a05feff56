"""``load_model``: a preset, a local folder or a Hugging Face id, as a LanguageModel."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from adaptinf.config import ModelConfig
from adaptinf.data import Sample
from adaptinf.errors import ConfigError, MissingDependencyError, UnsupportedModelError
from adaptinf.models.language_model import LanguageModel, wrap
from adaptinf.models.small_vlm import SmallVlmConfig, load_small_vlm, open_small_vlm
from adaptinf.models.smollm2 import smollm2_folder


def load_model(config: ModelConfig, *, pretraining: Sequence[Sample] = (), cache: Path) -> LanguageModel:
    """The model of ``config``, in evaluation mode, on its device.

    ``small-vlm`` is pre-trained once on ``pretraining`` (``adaptinf.data.split_pretraining``) and then found in
    ``cache``; ``smollm2-135m`` is converted once from its pip package; any other name is a local folder or a Hugging
    Face id at ``config.revision``. Code from the hub is never run; only safetensors are read.

    Raises ConfigError, MissingDependencyError or UnsupportedModelError.
    """
    device = _device(config.device)
    if config.name == "small-vlm":
        _refuse_quantization(config)
        lm = load_small_vlm(
            config.pretrain, pretraining, cache, attention=config.attention, max_length=config.max_length
        )
    else:
        place = str(smollm2_folder(cache)) if config.name == "smollm2-135m" else config.name
        lm = _load_pretrained(config, place, device, cache)
    if config.quantization is None:
        lm.model.to(device, getattr(torch, config.dtype))
    lm.model.eval()
    return lm


def _load_pretrained(config: ModelConfig, place: str, device: torch.device, cache: Path) -> LanguageModel:
    local = Path(place).is_dir()
    origin: dict[str, Any] = {"revision": config.revision or "main", "local_files_only": local}
    try:
        described = AutoConfig.from_pretrained(place, trust_remote_code=False, **origin)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"is no model that can be loaded ({str(error).splitlines()[0]})",
            item=f"model.name={config.name}",
            remedy="name a preset (small-vlm, smollm2-135m), a local folder or a Hugging Face id",
        ) from error
    if isinstance(described, SmallVlmConfig):
        _refuse_quantization(config)
        return open_small_vlm(Path(place), attention=config.attention, max_length=config.max_length, cache=cache)
    sees = type(described) in AutoModelForImageTextToText._model_mapping  # noqa: SLF001 - the only way to ask
    if not sees and type(described) not in AutoModelForCausalLM._model_mapping:  # noqa: SLF001
        raise UnsupportedModelError(
            f"{described.model_type} is neither a causal nor an image-text-to-text model", item=config.name
        )
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    quantization = _quantization(config)
    try:
        model = auto.from_pretrained(
            place,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            quantization_config=quantization,
            device_map={"": device} if quantization else None,
            **origin,
        )
        loader = AutoProcessor if sees else AutoTokenizer
        processor = loader.from_pretrained(place, trust_remote_code=False, **origin)
    except ImportError as error:
        raise MissingDependencyError(
            f"transformers lacks a package for it ({str(error).strip().splitlines()[0]})",
            item=f"model.name={config.name}",
            remedy="install the package that the message names",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot be loaded ({str(error).strip().splitlines()[0]})",
            item=f"model.name={config.name}",
            remedy="the folder needs safetensors weights and its tokenizer or processor",
        ) from error
    name = f"{config.name}@{config.revision}" if config.revision else config.name
    return wrap(model, processor, name=name, max_length=config.max_length)


def _quantization(config: ModelConfig) -> BitsAndBytesConfig | None:
    if config.quantization is None:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            "bitsandbytes is not installed",
            item=f"model.quantization={config.quantization}",
            remedy="pip install bitsandbytes, or set model.quantization to null",
        )
    if config.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = getattr(torch, config.dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def _refuse_quantization(config: ModelConfig) -> None:
    if config.quantization is not None:
        raise ConfigError("the small model is not quantised", item="model.quantization", remedy="set it to null")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("is no device", item=f"model.device={name}", remedy="auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError("there is no such GPU", item=f"model.device={name}", remedy="auto or cpu")
    return device
