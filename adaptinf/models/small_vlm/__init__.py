"""The preset ``small-vlm``: a LLaVA-style model that is pre-trained on the spot in about a minute."""

from __future__ import annotations

from adaptinf.models.small_vlm.modeling import SmallVlm, SmallVlmConfig
from adaptinf.models.small_vlm.pretrain import load_small_vlm, open_small_vlm

__all__ = ["SmallVlm", "SmallVlmConfig", "load_small_vlm", "open_small_vlm"]
