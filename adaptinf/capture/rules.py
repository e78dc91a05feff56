"""The kinds of modules whose parameters' gradients are known from input and output gradient alone.

A module is recognised by the ``forward`` that it runs, a norm layer by what it computes; a class that changes either is
none of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adaptinf.capture.sink import GradientSink
from adaptinf.capture.tap import Rule
from adaptinf.models.norms import normalised, rms_norm_epsilon


def rule_for(module: nn.Module, names: Mapping[str, str]) -> Rule | None:
    """The rule of ``module`` for its parameters ``names`` (attribute -> the parameter's name); None: it has none."""
    forward = type(module).forward
    own = {"weight", "bias"}.issuperset(names)
    if isinstance(module, (nn.Linear, Conv1D)) and own and forward in (nn.Linear.forward, Conv1D.forward):
        return LinearRule(module, names) if module.weight.is_floating_point() else None
    if isinstance(module, nn.Embedding) and forward is nn.Embedding.forward:
        return EmbeddingRule(module, names) if module.max_norm is None and not module.scale_grad_by_freq else None
    epsilon = _epsilon(module) if own else None
    return None if epsilon is None else NormRule(module, names, epsilon)


class _OfModule:
    def __init__(self, module: nn.Module, names: Mapping[str, str]) -> None:
        self.module = module
        self.weight, self.bias = names.get("weight"), names.get("bias")
        self.names = tuple(names.values())

    def _add_bias(self, sink: GradientSink, grad: Tensor, cu_seqlens: Tensor) -> None:
        if self.bias is not None:
            sink.bias(self.bias, grad, cu_seqlens)


class LinearRule(_OfModule):
    """``y = x W^T + b``; GPT-2's Conv1D has ``y = x W + b``: the same with the roles of x and gradient changed."""

    def saved(self, args: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        return (args[0],) if self.weight is not None else ()

    def add(self, sink: GradientSink, saved: tuple[Tensor, ...], grad: Tensor) -> None:
        grad, cu_seqlens = sink.rows(self.names[0], grad)
        if self.weight is not None:
            x, _ = sink.rows(self.names[0], saved[0])
            x = x.to(grad.dtype)  # what the layer computed with, under autocast
            pair = (grad, x) if isinstance(self.module, Conv1D) else (x, grad)
            sink.linear(self.weight, *pair, cu_seqlens)
        self._add_bias(sink, grad, cu_seqlens)


class EmbeddingRule(_OfModule):
    """``y_t = E[ids_t]``."""

    def saved(self, args: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        return (args[0],)

    def add(self, sink: GradientSink, saved: tuple[Tensor, ...], grad: Tensor) -> None:
        (name,) = self.names
        ids, cu_seqlens = sink.rows(name, saved[0], features=0)
        grad, _ = sink.rows(name, grad)
        table = self.module
        assert isinstance(table, nn.Embedding)
        sink.embedding(
            name, ids, grad, cu_seqlens, vocabulary=table.num_embeddings, padding_idx=table.padding_idx
        )  # fmt: skip


class NormRule(_OfModule):
    """``y = W * normalised(x) + b``, over the last dimension: LayerNorm and every RMSNorm, also with ``1 + W``."""

    def __init__(self, module: nn.Module, names: Mapping[str, str], epsilon: float) -> None:
        super().__init__(module, names)
        self.epsilon = epsilon

    def saved(self, args: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        return (args[0],) if self.weight is not None else ()

    def add(self, sink: GradientSink, saved: tuple[Tensor, ...], grad: Tensor) -> None:
        grad, cu_seqlens = sink.rows(self.names[0], grad)
        if self.weight is not None:
            x, _ = sink.rows(self.names[0], saved[0])
            sink.norm(self.weight, normalised(self.module, x, self.epsilon), grad, cu_seqlens)
        self._add_bias(sink, grad, cu_seqlens)


class LoraRule:
    """A and B of one adapter of a peft Linear layer, ``y = W x + scaling B A x``, with dropout off."""

    def __init__(self, module: Any, adapter: str, names: tuple[str, str]) -> None:
        self.module: Any = module
        self.adapter, self.names = adapter, names

    @classmethod
    def fits(cls, module: Any, adapter: str) -> bool:
        """Whether ``adapter`` is plain LoRA, in use and without dropout now."""
        if type(module).forward is not PeftLinear.forward:
            return False
        dropout = module.lora_dropout[adapter]
        quiet = isinstance(dropout, nn.Identity) or not dropout.training
        plain = adapter not in module.lora_variant and module.lora_B[adapter].bias is None
        return quiet and plain and adapter in module.active_adapters and not module.disable_adapters

    def saved(self, args: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        return (args[0],)

    def add(self, sink: GradientSink, saved: tuple[Tensor, ...], grad: Tensor) -> None:
        grad, cu_seqlens = sink.rows(self.names[0], grad)
        x, _ = sink.rows(self.names[0], saved[0])
        layer, adapter = self.module, self.adapter
        sink.lora(
            self.names, x.to(grad.dtype), grad, cu_seqlens, scaling=layer.scaling[adapter], magnitude=None,
            lora_a=layer.lora_A[adapter].weight.detach(), lora_b=layer.lora_B[adapter].weight.detach(),
        )  # fmt: skip


def _epsilon(module: nn.Module) -> float | None:
    """The epsilon of a norm layer over the last dimension, or None where ``module`` is no such layer."""
    if isinstance(module, nn.LayerNorm):
        plain = type(module).forward is nn.LayerNorm.forward and len(module.normalized_shape) == 1
        return module.eps if plain else None
    return rms_norm_epsilon(module, shifted=True)
