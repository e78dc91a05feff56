"""Parameters chosen by name, and the taps that see their gradients."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers.pytorch_utils import Conv1D

from adaptinf.capture.experts import ExpertsRule, is_experts
from adaptinf.capture.rules import LoraRule, rule_for
from adaptinf.capture.tap import Rule
from adaptinf.errors import ConfigError, UnsupportedModelError

Targets = str | Sequence[str] | Mapping[str, nn.Parameter]
"""Which parameters: ``"trainable"`` (those that ask for a gradient); names or patterns (``model.layers.3.*.weight``)
of parameters; names of modules, for all parameters in them; or the parameters themselves by the names that decide
their sketch matrices."""


def select(model: nn.Module, targets: Targets) -> dict[str, nn.Parameter]:
    """The chosen parameters by name, in the model's order; a tied one under its first name.

    Raises ConfigError for a name or pattern without a parameter.
    """
    if isinstance(targets, Mapping):
        return dict(targets)
    parameters = dict(model.named_parameters())
    if targets == "trainable":
        chosen = {name for name, parameter in parameters.items() if parameter.requires_grad}
        if not chosen:
            raise ConfigError("no parameter of the model asks for a gradient", item="targets", remedy="name parameters")
        return {name: parameters[name] for name in parameters if name in chosen}
    first = {id(parameter): name for name, parameter in parameters.items()}
    every = [(name, first[id(p)]) for name, p in model.named_parameters(remove_duplicate=False)]
    chosen = set()
    for pattern in [targets] if isinstance(targets, str) else targets:
        found = {known for name, known in every if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")}
        if not found:
            near = difflib.get_close_matches(pattern, [name for name, _ in every], n=1, cutoff=0.0)
            raise ConfigError("matches no parameter", item=f"targets={pattern!r}", remedy=f"such as {near}")
        chosen |= found
    return {name: parameter for name, parameter in parameters.items() if name in chosen}


def rules_for(model: nn.Module, chosen: Mapping[str, nn.Parameter]) -> list[Rule]:
    """Taps that together see every use of the ``chosen`` parameters.

    Raises UnsupportedModelError naming a parameter whose module's gradient cannot be followed.
    """
    names = {id(parameter): name for name, parameter in chosen.items()}
    owned: dict[str, dict[str, str]] = {}
    for path, module in model.named_modules():
        attributes = {
            attribute: names[id(parameter)]
            for attribute, parameter in module._parameters.items()  # noqa: SLF001
            if parameter is not None and id(parameter) in names
        }
        if attributes:
            owned[path] = attributes
    seen = {name for attributes in owned.values() for name in attributes.values()}
    for name in chosen:
        if name not in seen:
            raise UnsupportedModelError(
                "is no parameter of the model", item=name, remedy="pass the model that holds it"
            )
    rules: list[Rule] = _pairs(model, owned)
    for path, attributes in owned.items():
        module = model.get_submodule(path)
        if is_experts(module):
            rules.append(ExpertsRule(module, attributes))
            continue
        rule = None if _sees_some_tokens(path, module) else rule_for(module, attributes)
        if rule is None:
            raise _unsupported(path, module, attributes)
        rules.append(rule)
    return rules


def _pairs(model: nn.Module, owned: dict[str, dict[str, str]]) -> list[Rule]:
    """One tap for A and B of an adapter where both are chosen and plain; they are taken out of ``owned``."""
    rules: list[Rule] = []
    for path in [path for path in owned if ".lora_A." in path]:
        layer, _, adapter = path.partition(".lora_A.")
        other = f"{layer}.lora_B.{adapter}"
        module = model.get_submodule(layer)
        if other in owned and LoraRule.fits(module, adapter):
            pair = (owned.pop(path)["weight"], owned.pop(other)["weight"])
            rules.append(LoraRule(module, adapter, pair))
    return rules


def _sees_some_tokens(path: str, module: nn.Module) -> bool:
    """A Linear layer of one expert among several: which tokens its rows are is known to its caller alone."""
    return isinstance(module, (nn.Linear, Conv1D)) and any(
        part.endswith("experts") and not part.startswith("shared") for part in path.split(".")[:-1]
    )


def _unsupported(path: str, module: nn.Module, attributes: Mapping[str, str]) -> UnsupportedModelError:
    name = next(iter(attributes.values()))
    weight = module._parameters[next(iter(attributes))]  # noqa: SLF001
    if _sees_some_tokens(path, module):
        why, remedy = "is an expert's own layer, called on tokens that it does not know", "leave the experts out"
    elif weight is not None and not weight.is_floating_point():
        why, remedy = f"is quantised ({weight.dtype}) and has no gradient", "choose the adapter's parameters"
    elif "lora_magnitude" in path:
        why, remedy = "is DoRA's magnitude, whose gradient is not sketched", "use plain LoRA, or leave it out"
    else:
        why = f"belongs to {type(module).__name__}, which is no Linear, Conv1D, Embedding, LayerNorm or RMSNorm"
        remedy = "leave it out of targets"
    return UnsupportedModelError(why, item=name, remedy=remedy)
