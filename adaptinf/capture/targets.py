"""Which parameters of a language model the gradient features are taken from."""

from __future__ import annotations

from typing import Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from adaptinf.errors import ConfigError, UnsupportedModelError
from adaptinf.models import LanguageModel

Layers = Literal["first", "middle", "last", "all", "whole"] | list[int]
Parameters = Literal["lora", "linear", "all"]


def layer_indices(layers: Layers, count: int) -> list[int]:
    """Decoder layers by name or number; ``middle`` is ``count // 2 - 1`` (15 of 32 as in Adapt-inf, section 4.1)."""
    if isinstance(layers, str):
        named = {"first": [0], "middle": [max(count // 2 - 1, 0)], "last": [count - 1], "all": list(range(count))}
        named["whole"] = named["all"]
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


def find_targets(lm: LanguageModel, layers: Layers, parameters: Parameters) -> dict[str, nn.Parameter]:
    """The target parameters of the chosen decoder layers, by name.

    ``lora``: those of the active peft adapter; ``linear``: the weights of the layers' own Linear (or Conv1D) modules
    and of fused experts; ``all``: every parameter of the layers' own, with ``layers="whole"`` also the token embedding,
    what stands beside the layers (norms, learned positions), and the head. Raises UnsupportedModelError where a layer
    has none; what cannot be followed is refused by name when it is tapped, never skipped.
    """
    prefixes = {}
    for index in layer_indices(layers, len(lm.decoder_layers)):
        prefix, layer = lm.decoder_layers[index]
        prefixes[prefix] = index
        if not any(_belongs(name, owner, parameters) for name, owner in _parameters(layer)):
            what = {"lora": "LoRA adapter", "linear": "Linear module", "all": "parameter"}[parameters]
            raise UnsupportedModelError(
                f"decoder layer {index} has no {what}",
                item=prefix,
                remedy="add an adapter with adaptinf.models.add_lora, or choose features.parameters=linear",
            )
    if layers == "whole":
        around = next(iter(prefixes)).rpartition(".")[0].rpartition(".")[0]
        prefixes = {around: 0, _path(lm.model, lm.base.get_output_embeddings()): 0}
    owners = dict(_parameters(lm.model))
    return {
        name: parameter
        for name, parameter in lm.model.named_parameters()
        if any(name.startswith(f"{prefix}.") for prefix in prefixes) and _belongs(name, owners[name], parameters)
    }


def _belongs(name: str, owner: nn.Module, parameters: Parameters) -> bool:
    if "lora_" in name:
        return parameters == "lora"
    if parameters == "linear":
        linear = isinstance(owner, (nn.Linear, Conv1D)) and name.endswith("weight")
        return linear or (not isinstance(owner, nn.Embedding) and owner._parameters[name.rpartition(".")[2]].dim() > 1)  # noqa: SLF001  # pyright: ignore[reportOptionalMemberAccess]
    return parameters == "all"


def _parameters(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """``(qualified name, the module that holds it)`` of every parameter."""
    return [
        (f"{path}.{attribute}" if path else attribute, owner)
        for path, owner in module.named_modules()
        for attribute, parameter in owner._parameters.items()  # noqa: SLF001
        if parameter is not None
    ]


def _path(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, known in model.named_modules() if known is module)
