"""The pass of one batch through a language model, and what is kept of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from adaptinf_kernels import Preconditioner, Sketch, TokenScores, token_scores
from adaptinf_kernels.token_scores.samples import segment_sum
from torch import Tensor, nn

from adaptinf.capture.allocator import freed_memory_kept
from adaptinf.capture.context import Capture, capture
from adaptinf.capture.layout import Layout, layout
from adaptinf.capture.merging import merged_adapters
from adaptinf.capture.products import fast_products
from adaptinf.capture.scores import sample_means
from adaptinf.models import Encoded, LanguageModel
from adaptinf.models.fused import fused_layers


@dataclass
class Forward:
    """Forward to the head's input, scores from there, and where there are ``targets`` the backward down to the lowest.

    The head's output ``[tokens, V]`` is never held, unless the model changes its logits after the head or the head is
    itself a target.
    """

    lm: LanguageModel
    targets: dict[str, nn.Parameter]
    sketch: Sketch | None
    scores: tuple[str, ...]
    hidden: int | str | None
    loss: str
    packed: bool
    per_parameter: bool = False
    preconditioners: Mapping[str, Preconditioner] | None = None
    lengths: list[int] = field(default_factory=list)
    pixels: int = 0
    captured: Capture | None = None
    directed: Capture | None = None
    layer_output: Tensor | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """For the context, the targets of a ``prepared`` model are tapped and the wanted layer's output is kept."""
        with ExitStack() as stack:
            if self.targets:
                norms = ["grad_norm"] if "grad_norm" in self.scores else []
                self.captured = stack.enter_context(
                    capture(
                        self.lm.model, targets=self.targets, sketch=self.sketch, scores=norms,
                        per_parameter=self.per_parameter,
                    )
                )  # fmt: skip
            if self.preconditioners and self.sketch is not None:
                self.directed = stack.enter_context(
                    capture(
                        self.lm.model, targets=self.targets, sketch=self.sketch, preconditioners=self.preconditioners,
                        per_parameter=self.per_parameter,
                    )
                )  # fmt: skip
            if isinstance(self.hidden, int):
                _, layer = self.lm.decoder_layers[self.hidden]
                stack.callback(layer.register_forward_hook(self._keep_layer_output).remove)
            elif self.hidden is not None and self._head is None:
                head = self.lm.base.get_output_embeddings()
                stack.callback(head.register_forward_pre_hook(self._keep_head_input).remove)
            yield

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, np.ndarray]:
        """One row a sample of each column."""
        device, lm = self.lm.device, self.lm
        where = layout(batch, packed=self.packed, device=device)
        inputs = lm.encoder.collate(batch, padding_side="right", packed=self.packed)
        inputs = {name: value.to(device) for name, value in inputs.items() if name != "labels"}
        head, backward = self._head, self.captured is not None
        for captured in self._captures:
            captured.begin(where.segments)
        with torch.set_grad_enabled(backward):
            states = (lm.hidden_states(inputs) if head is not None else lm.logits(inputs)).flatten(0, 1)
            answers = states.index_select(0, where.predictors)
        weight, bias = (head.weight, head.bias) if head is not None else (None, None)
        token = token_scores(answers.detach(), weight, where.targets, bias=bias, grad=backward)
        if backward:
            assert token.grad_hidden is not None  # asked for above
            scale = torch.ones_like(where.answer_lengths) if self.loss == "sum" else where.answer_lengths
            per_token = (1.0 / scale.float()).repeat_interleave(where.answer_lengths, output_size=len(answers))
            answers.backward((token.grad_hidden * per_token[:, None]).to(answers.dtype))
        self.lengths += [len(encoded.input_ids) for encoded in batch]
        self.pixels += inputs["pixel_values"].numel() if "pixel_values" in inputs else 0
        return self._collect(batch, where, states.detach(), token, weight, bias)

    @property
    def flops(self) -> float:
        """What all batches so far cost, by the counting model."""
        return self.lm.flops(self.lengths, backward_layers=self._depth() if self.targets else 0, pixels=self.pixels)

    @property
    def _head(self) -> nn.Linear | None:
        head = self.lm.head
        return None if head is None or any(p is head.weight for p in self.targets.values()) else head

    @property
    def _captures(self) -> list[Capture]:
        return [captured for captured in (self.captured, self.directed) if captured is not None]

    def _keep_layer_output(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.layer_output = (output[0] if isinstance(output, tuple) else output).detach()

    def _keep_head_input(self, module: nn.Module, args: tuple) -> None:
        self.layer_output = args[0].detach()

    def _depth(self) -> int:
        """How many decoder layers the backward pass goes through: from the last down to the lowest target."""
        names = [name for name, _ in self.lm.decoder_layers]
        lowest = [next((i for i, layer in enumerate(names) if t.startswith(layer + ".")), 0) for t in self.targets]
        return len(names) - min(lowest)

    def _collect(
        self,
        batch: Sequence[Encoded],
        where: Layout,
        states: Tensor,
        token: TokenScores,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> dict[str, np.ndarray]:
        columns = {"n_tokens": where.lengths.double(), "n_answer_tokens": where.answer_lengths.double()}
        columns.update(sample_means(token, where.answer_cu, self.scores))
        if "entropy_all" in self.scores:
            every = states.index_select(0, where.tokens)
            ignored = torch.full((len(every),), -100, device=every.device)
            entropy = token_scores(every, weight, ignored, bias=bias).entropy
            columns["entropy_all"] = segment_sum(entropy, where.cu_seqlens) / where.lengths.double()
        if self.hidden is not None:
            states = states if self.layer_output is None else self.layer_output.flatten(0, 1)
            total = segment_sum(states.index_select(0, where.tokens), where.cu_seqlens)
            columns["hidden"] = (total / where.lengths.double()[:, None]).float()
            self.layer_output = None
        for name, captured in zip(("sketch", "direction"), self._captures, strict=False):
            found = captured.result()
            columns.update(found.scores)
            if found.sketch is not None:
                columns[name] = found.sketch.flatten(1)
        out = {name: column.cpu().numpy() for name, column in columns.items()}
        out["n_images"] = np.array([float(encoded.n_images) for encoded in batch])
        return out


@contextmanager
def prepared(model: nn.Module, targets: Collection[str]) -> Iterator[None]:
    """For the context: the model frozen, its adapters merged and its products by oneDNN where that changes no more than
    rounding, and what a batch frees kept for the next."""
    with frozen(model), merged_adapters(model, targets), fast_products(model), fused_layers(model), freed_memory_kept():
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient and dropout is off; everything is as before afterwards."""
    training = {module: module.training for module in model.modules()}
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
        for module, was in training.items():
            module.training = was
