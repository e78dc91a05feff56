"""Which parameters the gradient features are taken from."""

from __future__ import annotations

from typing import Literal

from torch import nn

from adaptinf.errors import ConfigError, UnsupportedModelError
from adaptinf.models import LanguageModel

Layers = Literal["first", "middle", "last", "all"] | list[int]
Parameters = Literal["lora", "linear"]


def layer_indices(layers: Layers, count: int) -> list[int]:
    """Decoder layers by name or number; ``middle`` is ``count // 2 - 1`` (15 of 32 as in Adapt-inf, section 4.1)."""
    if isinstance(layers, str):
        named = {"first": [0], "middle": [max(count // 2 - 1, 0)], "last": [count - 1], "all": list(range(count))}
        if layers not in named:
            raise ConfigError(f"is none of {', '.join(named)} or a list of numbers", item=f"features.layers={layers!r}")
        return named[layers]
    for index in layers:
        if not -count <= index < count:
            raise ConfigError(
                f"the model has {count} decoder layers",
                item=f"features.layers={index}",
                remedy=f"choose numbers from 0 to {count - 1}, or first, middle, last or all",
            )
    return sorted({index % count for index in layers})


def find_targets(lm: LanguageModel, layers: Layers, parameters: Parameters) -> dict[str, nn.Module]:
    """Parameter name -> the Linear module that holds it, for every target parameter of the chosen decoder layers.

    ``lora``: the A and B matrices of the active peft adapter; ``linear``: the weights of the layers' own Linear
    modules. Raises UnsupportedModelError where a layer has none, or has adapter parameters that are not plain A and B
    (DoRA's magnitude, embeddings): they are never skipped silently.
    """
    targets: dict[str, nn.Module] = {}
    for index in layer_indices(layers, len(lm.decoder_layers)):
        layer_name, layer = lm.decoder_layers[index]
        found = _lora_modules(layer_name, layer) if parameters == "lora" else _linear_modules(layer_name, layer)
        if not found:
            what = "LoRA adapter" if parameters == "lora" else "Linear module"
            raise UnsupportedModelError(
                f"decoder layer {index} has no {what}",
                item=layer_name,
                remedy="add an adapter with adaptinf.models.add_lora, or choose features.parameters=linear",
            )
        targets.update(found)
    return targets


def _lora_modules(layer_name: str, layer: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for name, parameter in layer.named_parameters():
        if "lora_" not in name:
            continue
        owner = name.rpartition(".")[0]
        module = layer.get_submodule(owner)
        if not isinstance(module, nn.Linear) or "lora_magnitude" in name or parameter.dim() != 2:
            raise UnsupportedModelError(
                "is an adapter parameter that is not the A or B of a Linear module",
                item=f"{layer_name}.{name}",
                remedy="use plain LoRA (no DoRA, no embedding adapters) or features.parameters=linear",
            )
        found[f"{layer_name}.{name}"] = module
    return found


def _linear_modules(layer_name: str, layer: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{layer_name}.{name}.weight": module
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    }
