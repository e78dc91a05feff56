"""``with capture(model, ...)``: per-sample features of whatever is differentiated, in anybody's loop."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from adaptinf_kernels import Preconditioner, Sketch, token_scores
from torch import Tensor, nn

from adaptinf.capture.parameters import Targets, rules_for, select
from adaptinf.capture.products import fast_products
from adaptinf.capture.scores import TOKEN_SCORES, sample_means
from adaptinf.capture.segments import Segments
from adaptinf.capture.sink import GradientSink
from adaptinf.capture.tap import in_backward, tapped
from adaptinf.errors import ConfigError, UnsupportedModelError


class Captured(NamedTuple):
    """One batch: ``sketch`` float32 [samples, k] (None without a sketch; [samples, parameters, k] with
    ``per_parameter``) and the scores by name, float64 [samples]."""

    sketch: Tensor | None
    scores: dict[str, Tensor]


class Capture:
    """What :func:`capture` yields: :meth:`begin` before a batch's forward, :meth:`result` after its backward."""

    def __init__(
        self,
        sink: GradientSink | None,
        names: Collection[str],
        *,
        keeps_sketch: bool,
        scores: Sequence[str],
        allow_unused: bool,
    ) -> None:
        self._sink, self._names, self._keeps_sketch = sink, names, keeps_sketch
        self._scores, self._allow_unused = scores, allow_unused
        self._token_scores = [name for name in scores if name in TOKEN_SCORES]
        self._segments: Segments | None = None
        self._labels: Tensor | None = None
        self._found: dict[str, Tensor] | None = None

    def begin(self, segments: Segments | int, *, labels: Tensor | None = None) -> None:
        """Start a batch.

        Args:
            segments: where the samples lie; a number n means n samples, one a row of the batch.
            labels: int64, of the shape of the logits without their last dimension: what each is to predict, -100 for
                nothing (for a language model: its labels, moved one to the left). Needed for the scores of tokens.
        """
        self._segments = Segments.rows(segments) if isinstance(segments, int) else segments
        if self._token_scores and labels is None:
            raise ValueError(f"the scores {', '.join(self._token_scores)} need labels")
        self._labels, self._found = labels, None
        if self._sink is not None:
            self._sink.begin(self._segments)

    def result(self, *, scale: Tensor | float = 1.0) -> Captured:
        """Features of the batch since :meth:`begin`, which ends with it.

        They are those of the gradient of what was differentiated: with a loss averaged over the batch's N tokens, of
        each sample's sum divided by N. ``scale`` (a number, or [samples]) is what they are multiplied by to undo that
        or a GradScaler (``1 / scaler.get_scale()``).

        Raises UnsupportedModelError for a parameter that no gradient came from, RuntimeError before :meth:`begin`.
        """
        if self._segments is None:
            raise RuntimeError("call begin() before the batch, then forward, backward and result()")
        scores, sketch = {}, None
        if self._token_scores:
            if self._found is None:
                raise RuntimeError("the model was not run since begin(), so there are no scores of its tokens")
            scores.update(self._found)
        if self._sink is not None:
            features, squares = self._sink.finish(self._names, allow_unused=self._allow_unused)
            factor = torch.as_tensor(scale, dtype=torch.float32, device=features.device).expand(len(features))
            sketch = features * factor.view(-1, *[1] * (features.dim() - 1)) if self._keeps_sketch else None
            if squares is not None:
                scores["grad_norm"] = squares.double().sqrt() * factor.double().abs()
        self._segments = self._labels = self._found = None
        return Captured(sketch, {name: scores[name] for name in self._scores})

    def score(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the model: scores of its logits."""
        if self._segments is None or self._labels is None or in_backward():
            return
        if self._found is not None:
            raise RuntimeError("the model ran twice since begin(): call begin() before each batch")
        logits = _logits(output).detach()
        if logits.shape[:-1] != self._labels.shape:
            raise ValueError(f"labels are {list(self._labels.shape)}, the logits {list(logits.shape)}")
        owner = self._segments.owners("the logits", logits.flatten(0, -2))
        labels = self._labels.to(logits.device).flatten()
        chosen = ((labels != -100) & (owner >= 0)).nonzero().squeeze(1)
        counts = torch.bincount(owner[chosen], minlength=self._segments.samples)
        cu_seqlens = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        token = token_scores(logits.flatten(0, -2).index_select(0, chosen), None, labels[chosen])
        self._found = sample_means(token, cu_seqlens, self._token_scores)


@contextmanager
def capture(
    model: nn.Module,
    *,
    targets: Targets = "trainable",
    sketch: Sketch | None = None,
    scores: Sequence[str] = (),
    preconditioners: Mapping[str, Preconditioner] | None = None,
    per_parameter: bool = False,
    allow_unused: bool = False,
) -> Iterator[Capture]:
    """Observe the forward and backward passes of ``model`` for as long as the context lasts.

    ::

        with capture(model, targets="layers.3", sketch=Sketch(k=4096), scores=["grad_norm"]) as captured:
            for x, y in batches:
                captured.begin(len(x))
                loss(model(x), y).backward()
                sketch, scores = captured.result()

    The passes themselves are not changed: with training parameters the optimiser sees the same gradients. Where all of
    the model is frozen when the context opens, no weight gradient is formed, backward stops at the lowest target, and
    on a CPU float32 products are oneDNN's, which differ from torch's by rounding. Works with gradient checkpointing of
    both kinds, modules that run several times, tied weights, autocast, and models compiled while the context is open
    (each tap is a graph break).

    Args:
        model: any module, whose parameters are in Linear, Conv1D, Embedding, LayerNorm or RMSNorm modules, in peft's
            LoRA layers or in transformers' fused experts.
        targets: which parameters; see :data:`Targets`.
        sketch: the random projection of their gradient, summed over them; None: no sketch.
        scores: of ``grad_norm`` (the norm of the gradient over the targets) and, from the model's logits (its output,
            or ``output.logits``), ``nll``, ``mean_exp_nll``, ``entropy``, ``el2n``, ``margin``.
        preconditioners: by parameter name, what is done to a sample's gradient before it is sketched or measured.
        per_parameter: keep the parameters' sketches apart, ``k`` numbers for each: the sketch is [samples, parameters,
            k] in the order of the model's parameters (of ``targets``, where that is a mapping).
        allow_unused: count a parameter that no gradient came from as zero instead of refusing.

    Raises:
        ConfigError: a target matches nothing, or a score has another name.
        UnsupportedModelError: the gradient of a target cannot be followed; the message names it.
    """
    for name in scores:
        if name not in (*TOKEN_SCORES, "grad_norm"):
            raise ConfigError("is no score", item=name, remedy=f"choose from {', '.join(TOKEN_SCORES)}, grad_norm")
    norms = "grad_norm" in scores
    sink, chosen = None, {}
    with ExitStack() as stack:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            stack.enter_context(fast_products(model))
        if sketch is not None or norms:
            chosen = select(model, targets)
            unknown = sorted((preconditioners or {}).keys() - chosen.keys())
            if unknown:
                raise ConfigError("is none of the targets", item=f"preconditioners={unknown[0]!r}")
            used = sketch if sketch is not None else Sketch(kind="sjlt", k=64, nonzeros=1)
            parameters = list(chosen) if per_parameter else None
            sink = GradientSink(used, norms=norms, preconditioners=preconditioners, parameters=parameters)
            stack.enter_context(tapped(rules_for(model, chosen), sink))
        captured = Capture(
            sink, chosen, keeps_sketch=sketch is not None, scores=scores, allow_unused=allow_unused
        )  # fmt: skip
        if set(scores) & set(TOKEN_SCORES):
            hook: Any = torch.compiler.disable(captured.score)
            stack.callback(model.register_forward_hook(hook).remove)
        yield captured


def _logits(output: Any) -> Tensor:
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim() < 2:
        raise UnsupportedModelError(
            f"returned {type(output).__name__} without logits",
            item="the model",
            remedy="leave the scores of tokens out, or pass the module that returns logits",
        )
    return found
