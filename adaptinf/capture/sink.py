"""Where the gradients of one backward pass add up: a row of ``k`` numbers and a squared norm for every sample."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import torch
from adaptinf_kernels import (
    GradSketch,
    Preconditioner,
    Sketch,
    grad_sketch_bias,
    grad_sketch_embedding,
    grad_sketch_linear,
    grad_sketch_lora,
    grad_sketch_norm,
)
from torch import Tensor

from adaptinf.capture.segments import Segments
from adaptinf.errors import UnsupportedModelError


class GradientSink:
    """Adds up, sample by sample, what the taps hand over.

    Every gradient is that of a weight used as ``x -> x W^T``: ``G_b^T X_b`` for some G and X (a bias has G = 1, an
    embedding G = onehot of the ids). A parameter that is used several times in one pass has the sum of such products;
    its sketch is a sum, but its norm and its preconditioned direction are not, so where these are asked for, the
    products wait and are joined, token after token, into one.

    With ``parameters`` given the sketches of each of them are kept apart: [samples, parameters, k], in their order.
    """

    def __init__(
        self,
        sketch: Sketch,
        *,
        norms: bool,
        preconditioners: Mapping[str, Preconditioner] | None = None,
        parameters: Sequence[str] | None = None,
    ) -> None:
        self.sketch, self.norms = sketch, norms
        self._places = None if parameters is None else {name: place for place, name in enumerate(parameters)}
        self._preconditioners = dict(preconditioners or {})
        self.segments: Segments | None = None
        self._features: Tensor | None = None
        self._squares: Tensor | None = None
        self._called: Counter[str] = Counter()
        self._reached: Counter[str] = Counter()
        self._waiting: defaultdict[str, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)

    def begin(self, segments: Segments) -> None:
        """Start a batch: nothing of the batch before remains."""
        self.segments = segments
        self._features = self._squares = None
        for record in (self._called, self._reached, self._waiting):
            record.clear()

    def called(self, name: str) -> None:
        """The parameter ``name`` takes part in a forward pass (not in its recomputation)."""
        self._called[name] += 1

    def reached(self, name: str) -> None:
        """A gradient of the parameter ``name`` came back."""
        self._reached[name] += 1

    def finish(self, names: Collection[str], *, allow_unused: bool) -> tuple[Tensor, Tensor | None]:
        """([samples, k] or [samples, parameters, k], squared norms [samples] or None) of the batch.

        ``names`` are all parameters asked for.

        Raises UnsupportedModelError for a parameter that no gradient came from, unless ``allow_unused``.
        """
        for name in names if not allow_unused else ():
            if not self._reached[name]:
                raise UnsupportedModelError(
                    "was used in the forward pass, but no gradient reached it"
                    if self._called[name]
                    else "was not used by its module's forward in this batch",
                    item=name,
                    remedy="run forward (with gradients on) and backward inside capture; a model compiled before it "
                    "does not notice it (torch.compiler.reset()); reentrant checkpointing needs inputs that ask for a "
                    "gradient (model.enable_input_require_grads()); where some batches do without the parameter, "
                    "allow_unused=True counts it as zero",
                )
        for name, products in self._waiting.items():
            self._add(name, *_joined(products))
        self._waiting.clear()
        if self._features is None:  # nothing took part, as allowed
            self._start(torch.device("cpu"))
        assert self._features is not None
        return self._features, self._squares

    def rows(self, name: str, values: Tensor, *, features: int = 1) -> tuple[Tensor, Tensor]:
        """The samples' rows of ``values`` and their ``cu_seqlens``; see :meth:`Segments.split`."""
        if self.segments is None:
            raise RuntimeError("a backward pass reached a tap before begin() said where the samples lie")
        return self.segments.split(name, values.detach(), features=features)

    def linear(self, name: str, x: Tensor, grad: Tensor, cu_seqlens: Tensor) -> None:
        """The weight of ``y = x W^T``."""
        if self._arrives(name):
            self._waiting[name].append((x, grad, cu_seqlens))
        else:
            self._add(name, x, grad, cu_seqlens)

    def bias(self, name: str, grad: Tensor, cu_seqlens: Tensor) -> None:
        if self._arrives(name):
            self._waiting[name].append((grad, grad.new_ones(len(grad), 1), cu_seqlens))
        else:
            self._sum(
                name,
                grad_sketch_bias(
                    grad, cu_seqlens, self.sketch, name=name, preconditioner=self._of(name), return_norms=self.norms
                ),
            )

    def norm(self, name: str, normalised: Tensor, grad: Tensor, cu_seqlens: Tensor) -> None:
        """The weight of ``y = W * normalised``."""
        if self._arrives(name):
            self._waiting[name].append((normalised * grad, grad.new_ones(len(grad), 1), cu_seqlens))
        else:
            self._sum(
                name,
                grad_sketch_norm(
                    normalised, grad, cu_seqlens, self.sketch, name=name, preconditioner=self._of(name),
                    return_norms=self.norms,
                )
            )  # fmt: skip

    def embedding(
        self, name: str, ids: Tensor, grad: Tensor, cu_seqlens: Tensor, *, vocabulary: int, padding_idx: int | None
    ) -> None:
        """The table of ``y_t = E[ids_t]``."""
        if self._arrives(name):
            onehot = grad.new_zeros(len(ids), vocabulary).scatter_(1, ids[:, None].long(), 1)
            if padding_idx is not None:
                onehot[:, padding_idx] = 0
            self._waiting[name].append((grad, onehot, cu_seqlens))
        elif name in self._preconditioners:
            raise UnsupportedModelError(
                "is an embedding, and its gradient is never formed",
                item=name,
                remedy="leave it out of preconditioners or of targets",
            )
        else:
            self._sum(
                name,
                grad_sketch_embedding(
                    ids, grad, cu_seqlens, self.sketch, name=name, vocabulary=vocabulary, padding_idx=padding_idx,
                    return_norms=self.norms,
                )
            )  # fmt: skip

    def lora(
        self,
        names: tuple[str, str],
        x: Tensor,
        grad: Tensor,
        cu_seqlens: Tensor,
        *,
        lora_a: Tensor,
        lora_b: Tensor,
        scaling: float,
        magnitude: Tensor | None,
    ) -> None:
        """A and B of ``y = W x + scaling B A x``."""
        waits = [self._arrives(name) for name in names]
        if any(waits) or self._places is not None:
            scaled = grad * scaling if magnitude is None else grad * (scaling * magnitude)
            of_a = x, scaled @ lora_b.to(grad.dtype), cu_seqlens
            of_b = x @ lora_a.to(x.dtype).T, scaled, cu_seqlens
            for name, product in zip(names, (of_a, of_b), strict=True):
                if any(waits):
                    self._waiting[name].append(product)
                else:
                    self._add(name, *product)
            return
        self._sum(
            names[0],
            grad_sketch_lora(
                x, grad, lora_a, lora_b, cu_seqlens, self.sketch, names=names, scaling=scaling, magnitude=magnitude,
                preconditioners=(self._of(names[0]), self._of(names[1])), return_norms=self.norms,
            )
        )  # fmt: skip

    def _arrives(self, name: str) -> bool:
        """Count a gradient that arrives; whether it has to wait for others of the same parameter."""
        self.reached(name)
        together = self.norms or name in self._preconditioners
        waits = together and self._called[_parameter(name)] > 1
        if together and not waits and self._reached[name] > 1:
            raise UnsupportedModelError(
                "got more gradients than it was used, so its norm cannot be known",
                item=name,
                remedy="run one backward per begin(), or leave out grad_norm and preconditioners",
            )
        return waits

    def _of(self, name: str) -> Preconditioner | None:
        return self._preconditioners.get(name)

    def _add(self, name: str, x: Tensor, grad: Tensor, cu_seqlens: Tensor) -> None:
        self._sum(
            name,
            grad_sketch_linear(
                x, grad, cu_seqlens, self.sketch, name=name, preconditioner=self._of(name), return_norms=self.norms
            ),
        )

    def _sum(self, name: str, found: GradSketch) -> None:
        if self._features is None:
            self._start(found.sketch.device)
        assert self._features is not None
        features = self._features if self._places is None else self._features[:, self._places[_parameter(name)]]
        features += found.sketch.to(features.device)
        if self._squares is not None and found.squared_norms is not None:
            self._squares += found.squared_norms.to(self._squares.device)

    def _start(self, device: torch.device) -> None:
        assert self.segments is not None
        samples = self.segments.samples
        apart = () if self._places is None else (len(self._places),)
        self._features = torch.zeros(samples, *apart, self.sketch.k, device=device)
        self._squares = torch.zeros(samples, device=device) if self.norms else None


def _parameter(name: str) -> str:
    """Of which parameter ``name`` is the whole, or one expert's part as in ``experts.down_proj[3]``."""
    return name.partition("[")[0]


def _joined(products: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Several ``G_b^T X_b`` of one parameter as one: each sample's tokens of all of them, one after the other."""
    x, grad = torch.cat([x for x, _, _ in products]), torch.cat([grad for _, grad, _ in products])
    owner = torch.cat([_owner(cu_seqlens, len(x)) for x, _, cu_seqlens in products])
    order = owner.argsort(stable=True)
    return x[order], grad[order], torch.stack([cu_seqlens for _, _, cu_seqlens in products]).sum(0).to(torch.int32)


def _owner(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """The sample of every token."""
    samples = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    return samples.repeat_interleave(cu_seqlens.diff().long(), output_size=tokens)
