"""Per-sample gradient sketches taken from an ordinary backward pass.

A tap is an autograd identity on the output of a Linear module. Its backward sees the module's input X and the gradient
G of its output, adds the sketch of every sample's weight gradient ``G_b^T X_b`` to that sample's row, and passes G on.
No weight gradient is formed, and where everything below the lowest tap is frozen, backward stops there: the tap's
anchor is the only leaf that asks for a gradient.

X is saved by autograd, not by a hook, so that recomputation (gradient checkpointing) sees the right tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from adaptinf_kernels import Sketch, grad_sketch_linear
from torch import Tensor, nn

from adaptinf.errors import UnsupportedModelError


class GradientSink:
    """Where the taps of one backward pass add up: one row of ``k`` numbers and one squared norm a sample."""

    def __init__(self, sketch: Sketch, *, norms: bool) -> None:
        self.sketch, self.norms = sketch, norms
        self._tokens = self._cu_seqlens = None
        self.features: Tensor | None = None
        self.squared_norms: Tensor | None = None
        self._seen: set[str] = set()

    def begin(self, tokens: Tensor, cu_seqlens: Tensor) -> None:
        """Start a batch. ``tokens`` [n] are positions in the flattened ``[B*T]`` grid, sample after sample;
        ``cu_seqlens`` [samples + 1] int32 says where each sample's positions begin."""
        self._tokens, self._cu_seqlens = tokens, cu_seqlens
        samples = len(cu_seqlens) - 1
        self.features = torch.zeros(samples, self.sketch.k, dtype=torch.float32, device=tokens.device)
        self.squared_norms = torch.zeros(samples, dtype=torch.float32, device=tokens.device) if self.norms else None
        self._seen.clear()

    def add(self, name: str, inputs: Tensor, grad_outputs: Tensor) -> None:
        if self._tokens is None or self._cu_seqlens is None or self.features is None:
            raise RuntimeError("a backward pass reached a tap before GradientSink.begin said where the samples lie")
        x, g = inputs.detach().flatten(0, -2), grad_outputs.detach().flatten(0, -2)
        if len(x) <= int(self._tokens.max()):
            raise UnsupportedModelError(
                f"sees {len(x)} rows where the batch has more tokens, so its rows cannot be told apart by sample",
                item=name,
                remedy="choose target layers of the language model, not of the vision tower",
            )
        if self.norms and name in self._seen:
            raise UnsupportedModelError(
                "is used twice in one pass, so its gradient norm is not the sum of the two",
                item=name,
                remedy="leave out the score grad_norm or choose another target layer",
            )
        self._seen.add(name)
        x, g = x.index_select(0, self._tokens), g.index_select(0, self._tokens)
        features, sketch, segments = self.features, self.sketch, self._cu_seqlens
        if self.squared_norms is None:
            grad_sketch_linear(x, g, segments, sketch, name=name, add_to=features)
        else:
            done = grad_sketch_linear(x, g, segments, sketch, name=name, add_to=features, return_norms=True)
            assert done.squared_norms is not None  # asked for above
            self.squared_norms += done.squared_norms


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, anchor: Tensor, sink: GradientSink, name: str) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.sink, ctx.name = sink, name
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (inputs,) = ctx.saved_tensors
        ctx.sink.add(ctx.name, inputs, grads[0])
        return grads[0] if ctx.needs_input_grad[0] else None, None, None, None, None


@contextmanager
def capture(targets: Mapping[str, nn.Module], sketch: Sketch, *, norms: bool = False) -> Iterator[GradientSink]:
    """Tap the Linear modules ``targets`` (parameter name -> module) for as long as the context lasts.

    Works in any loop: call ``sink.begin(tokens, cu_seqlens)``, run forward and backward, read ``sink.features``
    ``[samples, k]`` float32 and, with ``norms``, ``sink.squared_norms`` ``[samples]``. A sample's row is the sketch of
    the gradient of whatever was differentiated with respect to the targets' weights, summed over the targets.
    """
    sink = GradientSink(sketch, norms=norms)
    handles = []
    for name, module in targets.items():
        anchor = torch.zeros((), requires_grad=True)

        def tap(_: nn.Module, args: tuple, output: Tensor, *, anchor: Tensor = anchor, name: str = name) -> Tensor:
            return _Tap.apply(output, args[0], anchor, sink, name) if torch.is_grad_enabled() else output  # pyright: ignore[reportReturnType]

        handles.append(module.register_forward_hook(tap))
    try:
        yield sink
    finally:
        for handle in handles:
            handle.remove()
