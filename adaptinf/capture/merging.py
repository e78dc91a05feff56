"""Adapters merged into their layers while a frozen model is measured."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from adaptinf.capture.rules import LoraRule

_WIDE = (torch.float32, torch.float64)


@contextmanager
def merged_adapters(model: nn.Module, targets: Collection[str]) -> Iterator[None]:
    """``W x + scaling B A x`` as ``(W + scaling B A) x`` for the context: one matrix product for three.

    Only where W has the precision for it (float32, float64; in bfloat16 the sum would swallow the adapter), and where
    the ``targets`` do not need A and B to run by themselves. The gradients of A and B follow from the layer's input and
    output gradient, so the pair may be a target. Afterwards every bit is as before.
    """
    kept: list[tuple[Any, Tensor]] = []
    try:
        layers: list[tuple[str, Any]] = [(p, m) for p, m in model.named_modules() if isinstance(m, PeftLinear)]
        for path, layer in layers:
            if _mergeable(path, layer, targets):
                kept.append((layer, layer.get_base_layer().weight.detach().clone()))
                layer.merge()
        yield
    finally:
        with torch.no_grad():
            for layer, weight in kept:
                layer.merged_adapters.clear()
                layer.get_base_layer().weight.copy_(weight)


def _mergeable(path: str, layer: Any, targets: Collection[str]) -> bool:
    if layer.merged or layer.get_base_layer().weight.dtype not in _WIDE:
        return False
    for adapter in layer.active_adapters:
        pair = [f"{path}.lora_{side}.{adapter}.weight" in targets for side in "AB"]
        if adapter not in layer.lora_A or not LoraRule.fits(layer, adapter) or pair[0] != pair[1]:
            return False
    return True
