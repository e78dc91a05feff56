"""Inputs and output gradients of every Linear module of a model, layer by layer, for more samples than a batch holds.

The gradients of 200 samples in all weights would be 85 GB, so they are taken one layer at a time, from the last to the
first: each sample's input to a layer is kept from the forward pass, the layer is run again with its graph, and the
gradient that leaves it is the next lower layer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adaptinf.models import Encoded, LanguageModel

BLOCK_ROWS = 192


@dataclass(frozen=True)
class Factors:
    """A weight whose gradient for sample b is ``g[b].T @ x[b]``."""

    name: str
    x: list[Tensor]
    g: list[Tensor]

    @property
    def shape(self) -> tuple[int, int]:
        return self.g[0].shape[1], self.x[0].shape[1]

    def blocks(self) -> Iterator[tuple[range, Tensor]]:
        """Some rows of the weight, and their entries of every sample's gradient, [entries, samples]."""
        for first in range(0, self.shape[0], BLOCK_ROWS):
            rows = range(first, min(first + BLOCK_ROWS, self.shape[0]))
            parts = [(g[:, rows.start : rows.stop].T @ x).flatten() for x, g in zip(self.x, self.g, strict=True)]
            yield rows, torch.stack(parts, dim=1)

    def lora_at_start(self, rank: int, alpha: float) -> Factors:
        """B of a fresh adapter of this weight: its A is uniform as peft's, and B is zero, so A has no gradient."""
        generator = torch.Generator().manual_seed(len(self.name))
        bound = self.shape[1] ** -0.5
        a = torch.empty(rank, self.shape[1]).uniform_(-bound, bound, generator=generator)
        x = [alpha / rank * (part @ a.T) for part in self.x]
        return Factors(self.name.removesuffix("weight") + "lora_B.weight", x, self.g)


def layers(lm: LanguageModel, samples: Sequence[Encoded]) -> Iterator[tuple[int, list[Factors]]]:
    """(index, the layer's Linear weights) from the last layer to the first; the loss is the mean over answer tokens."""
    lm.model.requires_grad_(requires_grad=False)
    inputs, calls, flowing = _forward(lm, samples)
    for index in reversed(range(len(lm.decoder_layers))):
        name, layer = lm.decoder_layers[index]
        taken = _Tap(name, layer)
        for sample in range(len(samples)):
            start = inputs[sample].pop().requires_grad_()
            with torch.enable_grad():
                output = layer(start, **calls[sample])
            output.backward(flowing[sample])
            assert start.grad is not None
            flowing[sample] = start.grad
        yield index, taken.finish()


def _forward(
    lm: LanguageModel, samples: Sequence[Encoded]
) -> tuple[list[list[Tensor]], list[dict[str, Any]], list[Tensor]]:
    """Per sample: the inputs of all layers, what else they are called with, the gradient of the last one's output."""
    inputs: list[list[Tensor]] = []
    calls: list[dict[str, Any]] = []
    ends: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor], kwargs: dict[str, Any]) -> None:
        inputs[-1].append(args[0].detach())
        calls[-1] = kwargs

    def cut(_: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        ends.append(output.detach().requires_grad_())
        return ends[-1]

    modules = [module for _, module in lm.decoder_layers]
    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    hooks.append(modules[-1].register_forward_hook(cut))
    gradients = []
    for sample in samples:
        inputs.append([])
        calls.append({})
        logits = lm.logits(lm.encoder.collate([sample]))[0, :-1]
        answer = sample.labels[1:] != -100
        loss = nn.functional.cross_entropy(logits[answer], sample.labels[1:][answer])
        gradients.append(torch.autograd.grad(loss, ends[-1])[0])
    for hook in hooks:
        hook.remove()
    return inputs, calls, gradients


class _Tap:
    """Keeps inputs and output gradients of a layer's Linear modules until :meth:`finish`."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        linear = {f"{name}.{n}.weight": m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
        self._factors = {weight: Factors(weight, [], []) for weight in linear}
        self._hooks = [module.register_forward_hook(self._keeper(weight)) for weight, module in linear.items()]

    def _keeper(self, weight: str) -> Any:
        def keep(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            self._factors[weight].x.append(args[0].detach()[0])
            output.register_hook(lambda gradient: self._factors[weight].g.append(gradient.detach()[0].clone()))

        return keep

    def finish(self) -> list[Factors]:
        for hook in self._hooks:
            hook.remove()
        return list(self._factors.values())
