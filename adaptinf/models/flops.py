"""Floating-point operations, counted from the weights (a multiply-add is two).

Per token a linear map with N weights costs 2N forward, 2N for the gradient of its input and 2N for that of its
weights. Attention of a sequence of T tokens costs 4 T^2 w per layer forward (scores and weighted sum; w = heads x
head size), twice that backward; the causal half is not subtracted (the convention of PaLM, appendix B). Norms,
activations, softmax and embeddings are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image as PillowImage
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from adaptinf.data import Image, Sample
from adaptinf.models.encoding import Encoder


@dataclass(frozen=True)
class FlopCount:
    """Weights of linear maps: of each decoder layer, of the head, and the trainable ones among all of them."""

    layers: tuple[int, ...]
    head: int
    trainable: int
    attention_width: int

    @classmethod
    def of(cls, layers: Sequence[nn.Module], head: nn.Module, text_config: Any) -> FlopCount:
        linears = [list(_linear_weights(layer)) for layer in layers]
        head_weights = list(_linear_weights(head))
        trainable = sum(w.numel() for weights in (*linears, head_weights) for w in weights if w.requires_grad)
        heads = text_config.num_attention_heads
        head_size = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
        return cls(
            layers=tuple(sum(map(_size, weights)) for weights in linears),
            head=sum(map(_size, head_weights)),
            trainable=trainable,
            attention_width=heads * head_size,
        )

    def language(self, lengths: Sequence[int], *, backward_layers: int = 0, weight_gradients: bool = False) -> float:
        """One pass over samples of ``lengths`` tokens, padding not counted."""
        tokens, squares = float(sum(lengths)), float(sum(length * length for length in lengths))
        attention = 4.0 * self.attention_width * squares
        total = 2.0 * tokens * (sum(self.layers) + self.head) + attention * len(self.layers)
        if backward_layers:
            passed = self.layers[-backward_layers:]
            total += 2.0 * tokens * (sum(passed) + self.head) + 2.0 * attention * len(passed)
        if weight_gradients:
            total += 2.0 * tokens * self.trainable
        return total


def vision_flops_per_value(
    model: Any, encoder: Encoder, to_device: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> float:
    """Operations of the vision tower and connector per value of ``pixel_values``, counted on one grey picture."""
    buffer = BytesIO()
    PillowImage.new("RGB", (224, 224), (127, 127, 127)).save(buffer, "PNG")
    sample = Sample.from_instruction("", "?", "!", images=[Image(data=buffer.getvalue())], task="")
    inputs = to_device(encoder.encode_prompt(sample).extras)
    names = {"pixel_values", "pixel_attention_mask", "image_grid_thw", "image_sizes"}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.get_image_features(**{key: value for key, value in inputs.items() if key in names})
    return counter.get_total_flops() / inputs["pixel_values"].numel()


def _linear_weights(module: nn.Module) -> Iterable[Tensor]:
    for part in module.modules():
        if isinstance(part, (nn.Linear, Conv1D)):
            yield part.weight


def _size(weight: Tensor) -> int:
    """Entries of a weight; bitsandbytes packs those of a 4-bit one and keeps their true shape aside."""
    state = getattr(weight, "quant_state", None)
    return state.shape.numel() if state is not None else weight.numel()
