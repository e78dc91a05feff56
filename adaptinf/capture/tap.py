"""Taps: autograd identities on modules' outputs that see the gradient flow back.

A tap's backward sees what the module was given and the gradient of what it gave, hands both to the sink, and passes
the gradient on. No weight gradient is formed, and where everything below the lowest tap is frozen, backward stops
there: the tap's anchor is the only leaf that asks for a gradient.

What a tap needs later is saved by autograd, not by a hook, so that recomputation (gradient checkpointing) works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from adaptinf.capture.sink import GradientSink


class Rule(Protocol):
    """How the gradients of some parameters of ``module`` follow from what goes in and the gradient that comes back."""

    module: nn.Module
    names: tuple[str, ...]
    """The parameters, as they are called in the model."""

    def saved(self, args: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        """What :meth:`add` needs of a call, detached by autograd."""
        ...

    def add(self, sink: GradientSink, saved: tuple[Tensor, ...], grad: Tensor) -> None:
        """Hand the gradients of one call to ``sink``; ``grad`` is that of the module's output."""
        ...


@contextmanager
def tapped(rules: Sequence[Rule], sink: GradientSink) -> Iterator[None]:
    """Every rule's module is tapped for as long as the context lasts."""
    with ExitStack() as stack:
        for rule in rules:
            stack.callback(rule.module.register_forward_hook(_hook(rule, sink), with_kwargs=True).remove)
        yield


def in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread: a forward now is a recomputation."""
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001 - torch.utils.checkpoint asks the same way


def _hook(rule: Rule, sink: GradientSink) -> Any:
    anchor = torch.zeros((), requires_grad=True)

    @torch.compiler.disable
    def tap(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        if not in_backward():
            for name in rule.names:
                sink.called(name)
        if not torch.is_grad_enabled():
            return output
        saved = rule.saved((*args, *kwargs.values()), output)
        return _Tap.apply(output, anchor, sink, rule, *saved)  # pyright: ignore[reportReturnType]

    return tap


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, sink: GradientSink, rule: Rule, *saved: Tensor) -> Tensor:
        ctx.save_for_backward(*saved)
        ctx.sink, ctx.rule = sink, rule
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        saved = ctx.saved_tensors  # once: under checkpointing each access is a recomputation
        with torch.autocast(grad.device.type, enabled=False):
            ctx.rule.add(ctx.sink, saved, grad)
        return (grad if ctx.needs_input_grad[0] else None, *(None for _ in range(3 + len(saved))))
