"""Models of transformers and peft behind one interface, their encoders, LoRA and the presets."""

from __future__ import annotations

from adaptinf.models.collate import Encoded
from adaptinf.models.encoding import Encoder, ImageTextEncoder, TextEncoder
from adaptinf.models.language_model import LanguageModel, wrap

__all__ = ["Encoded", "Encoder", "ImageTextEncoder", "LanguageModel", "TextEncoder", "wrap"]
