"""Models of transformers and peft behind one interface, their encoders, LoRA and the presets."""

from __future__ import annotations

from adaptinf.models.collate import Encoded
from adaptinf.models.encoding import Encoder, ImageTextEncoder, TextEncoder
from adaptinf.models.language_model import LanguageModel, wrap
from adaptinf.models.loading import load_model
from adaptinf.models.lora import (
    add_lora,
    load_adapter,
    merge_lora,
    read_adapter,
    remove_lora,
    save_adapter,
    trainable_parameters,
)

__all__ = [
    "Encoded",
    "Encoder",
    "ImageTextEncoder",
    "LanguageModel",
    "TextEncoder",
    "add_lora",
    "load_adapter",
    "load_model",
    "merge_lora",
    "read_adapter",
    "remove_lora",
    "save_adapter",
    "trainable_parameters",
    "wrap",
]
