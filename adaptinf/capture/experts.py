"""Mixtures of experts whose weights are one tensor ``[experts, ...]``, as transformers stores them since version 5.

The routing is among the inputs of such a module, so which token each row of an expert belongs to is known: the tap
computes the experts' inner activations again, expert by expert, whatever kernel the forward used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adaptinf.capture.sink import GradientSink
from adaptinf.errors import UnsupportedModelError


def is_experts(module: nn.Module) -> bool:
    """Whether ``module`` is one of transformers' fused experts: (hidden [N, d], index [N, top], weights [N, top])."""
    down = module._parameters.get("down_proj")  # noqa: SLF001
    return down is not None and down.dim() == 3 and hasattr(module, "is_transposed") and hasattr(module, "has_gate")


class ExpertsRule:
    """``y_t = sum_e weight_te W_down[e] act(W_up[e] x_t)``, biases where the module has them.

    Expert e of the parameter ``p`` is a weight of its own, with the sketch matrix of the name ``p[e]``.
    """

    def __init__(self, module: nn.Module, names: Mapping[str, str]) -> None:
        self.module: Any = module
        self.attributes = dict(names)
        self.names = tuple(names.values())
        self._up = "gate_up_proj" if module.has_gate else "up_proj"
        self._check()

    def saved(self, args: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        return args[:3]

    def add(self, sink: GradientSink, saved: tuple[Tensor, ...], grad: Tensor) -> None:
        assert sink.segments is not None
        hidden, index, weights = (tensor.detach() for tensor in saved)
        owner = sink.segments.owners(self.names[0], hidden)
        for name in self.names:
            sink.reached(name)
        for expert, tokens, slots in _hits(index, self.module.num_experts):
            tokens, slots = (kept[owner[tokens] >= 0] for kept in (tokens, slots))
            samples = torch.bincount(owner[tokens], minlength=sink.segments.samples)
            cu_seqlens = torch.cat([samples.new_zeros(1), samples.cumsum(0)]).to(torch.int32)
            x, grad_down = hidden[tokens], grad[tokens] * weights[tokens, slots, None].to(grad.dtype)
            up = self._linear(self._up, expert, x)
            with torch.enable_grad():
                inner = self._activate(up.requires_grad_())
            down = self._weight("down_proj", expert)
            (grad_up,) = torch.autograd.grad(inner, up, grad_down.to(down.dtype) @ down)
            for attribute, inputs, outputs in (
                (self._up, x, grad_up),
                ("down_proj", inner.detach(), grad_down),
            ):
                self._add(sink, attribute, expert, inputs, outputs, cu_seqlens)

    def _add(
        self, sink: GradientSink, attribute: str, expert: int, x: Tensor, grad: Tensor, cu_seqlens: Tensor
    ) -> None:
        weight, bias = self.attributes.get(attribute), self.attributes.get(f"{attribute}_bias")
        if weight is not None:
            pair = (grad, x.to(grad.dtype)) if self.module.is_transposed else (x.to(grad.dtype), grad)
            sink.linear(f"{weight}[{expert}]", *pair, cu_seqlens)
        if bias is not None:
            sink.bias(f"{bias}[{expert}]", grad, cu_seqlens)

    def _weight(self, attribute: str, expert: int) -> Tensor:
        """[out, in]."""
        weight = getattr(self.module, attribute)[expert].detach()
        return weight.T if self.module.is_transposed else weight

    def _linear(self, attribute: str, expert: int, x: Tensor) -> Tensor:
        bias = getattr(self.module, f"{attribute}_bias")[expert].detach() if self.module.has_bias else None
        weight = self._weight(attribute, expert)
        return torch.nn.functional.linear(x.to(weight.dtype), weight, bias)

    def _activate(self, up: Tensor) -> Tensor:
        return self.module._apply_gate(up) if self.module.has_gate else self.module.act_fn(up)  # noqa: SLF001

    @torch.no_grad()
    def _check(self) -> None:
        """Compare this understanding of the module with what it computes, on some numbers."""
        weight = self._weight(self._up, 0)
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(4, weight.shape[1], generator=generator).to(weight)
        index = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]], device=weight.device) % self.module.num_experts
        weights = torch.rand(4, 2, generator=generator).to(weight)
        expected = torch.zeros_like(hidden)
        for expert, tokens, slots in _hits(index, self.module.num_experts):
            inner = self._activate(self._linear(self._up, expert, hidden[tokens]))
            expected.index_add_(
                0, tokens, self._linear("down_proj", expert, inner) * weights[tokens, slots, None]
            )  # fmt: skip
        found = self.module.forward(hidden, index, weights)
        rounding = 64 * torch.finfo(weight.dtype).eps
        if not bool((found - expected).abs().max() <= rounding * expected.abs().max().clamp_min(1e-30)):
            raise UnsupportedModelError(
                f"belongs to {type(self.module).__name__}, whose experts compute something else than "
                "W_down act(W_up x)",
                item=self.names[0],
                remedy="leave the experts out of targets",
            )


def _hits(index: Tensor, experts: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(expert, tokens, slots) of every expert that is called, its tokens in order."""
    for expert in index.unique().tolist():
        if 0 <= expert < experts:
            tokens, slots = (index == expert).nonzero(as_tuple=True)
            yield int(expert), tokens, slots
