"""Requests as vectors, by a frozen model and without their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from adaptinf_kernels import Sketch
from torch import Tensor

from adaptinf.capture import extract, find_targets
from adaptinf.data import Message, Sample
from adaptinf.errors import ConfigError
from adaptinf.models import Encoded, LanguageModel
from adaptinf.routing.prompts import Pooling, each_prompt, frozen, pool, pooled_layers


class Identified(Protocol):
    """What a router sees requests by."""

    flops: float
    """What the requests seen so far have cost, by the counting model."""

    def identity(self) -> dict[str, str]:
        """What decides what it makes of a request; a saved router is loaded for the same identity alone."""
        ...


class RequestEncoder(Identified, Protocol):
    """What a router sees of a request. The answer of a sample is never read."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [N, d] on the CPU, in the order of the samples, independent of the batch beyond rounding."""
        ...


class HiddenEncoder:
    """A hidden state of a frozen language model at the prompt, which ends where the answer begins.

    ``pooling="last"``: at the prompt's last token (SwitchCIT); ``"mean"``: the mean over its tokens. ``layer="last"``:
    what the head reads, after the final norm; a number: the output of that decoder layer, negative from the end.
    Adapters of ``lm`` are switched off, so that adding one changes no route. A prompt longer than the context is an
    error: cut off on the right, its last token would be some token in the middle.

    Source: SwitchCIT, switchnet.py (OPT-125m, last layer, last token).
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        layer: int | Literal["last"] = "last",
        pooling: Pooling = "last",
        batch_size: int = 32,
    ) -> None:
        count = len(lm.decoder_layers)
        if layer != "last" and not -count <= layer < count:
            raise ConfigError(f"is {layer}, the model has {count} layers", item="layer", remedy="name one of them")
        if pooling not in ("last", "mean"):
            raise ConfigError(f"is {pooling!r}", item="pooling", remedy="choose last or mean")
        self.lm, self.batch_size, self.flops = lm, batch_size, 0.0
        self.layer: int | Literal["last"] = layer
        self.pooling: Pooling = pooling

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        with frozen(self.lm):
            rows = each_prompt(self.lm, samples, self.batch_size, self._pooled)
        return torch.stack(rows) if rows else torch.empty(0, self.lm.text_config.hidden_size)

    def identity(self) -> dict[str, str]:
        return {"encoder": "hidden", "layer": str(self.layer), "pooling": self.pooling, **base_identity(self.lm)}

    def _pooled(self, prompts: Sequence[Encoded]) -> Tensor:
        self.flops += self.lm.flops([len(one.input_ids) for one in prompts])
        if self.layer == "last":
            return pool(self.lm.hidden_states(self.lm.encoder.collate(prompts)), prompts, self.pooling)
        _, layer = self.lm.decoder_layers[self.layer]
        return pooled_layers(self.lm, prompts, [layer], self.pooling)[:, 0]


class SketchEncoder:
    """Sketch of the gradient that a request's own words would make: the prompt is taken as an answer to nothing.

    With z the sketch, cosines of rows estimate cosines of these gradients (:mod:`adaptinf.capture`). ``layers`` are the
    full Linear weights of these decoder layers. Ours.
    """

    def __init__(
        self, lm: LanguageModel, *, k: int = 512, layers: Literal["first", "middle", "last"] = "middle"
    ) -> None:
        self.lm, self.sketch, self.flops = lm, Sketch("sjlt", k), 0.0
        self.layers: Literal["first", "middle", "last"] = layers

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        if not samples:
            return torch.empty(0, self.sketch.k)
        asked = [
            replace(sample, messages=(Message("user", sample.images or ("",)),), answer=sample.prompt)
            for sample in samples
        ]
        with frozen(self.lm):
            targets = {_plain(name): weight for name, weight in find_targets(self.lm, self.layers, "linear").items()}
            found = extract(
                self.lm, asked, sketch=self.sketch, targets=targets, scores=(), hidden=None, description="routing"
            )
        assert found.sketch is not None  # asked for above
        self.flops += found.flops
        return torch.as_tensor(found.sketch)

    def identity(self) -> dict[str, str]:
        return {"encoder": "sketch", "sketch": str(self.sketch), "layers": self.layers, **base_identity(self.lm)}


class PictureEncoder:
    """Mean feature of a request's pictures by a frozen picture encoder: for those that have any.

    ``features`` maps an Image to a float tensor [.., d]; all but the last dimension are averaged. It costs nothing
    here: the model that answers needs the same features.
    """

    def __init__(self, features: Any, name: str) -> None:
        self.features, self.name, self.flops = features, name, 0.0

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [N, d]; a row of NaN for a sample without pictures."""
        means = [
            torch.stack([self.features[image].float().flatten(0, -2).mean(0) for image in sample.images]).mean(0)
            if sample.images
            else None
            for sample in samples
        ]
        width = next((len(mean) for mean in means if mean is not None), 1)
        return torch.stack([torch.full((width,), torch.nan) if mean is None else mean for mean in means])

    def identity(self) -> dict[str, str]:
        return {"encoder": "pictures", "name": self.name}


def _plain(name: str) -> str:
    """A base weight's name without what peft puts around it: the sketch is a function of the name."""
    return name.replace("base_model.model.", "").replace("base_layer.", "")


def base_identity(lm: LanguageModel) -> dict[str, str]:
    """What decides the outputs of the model without its adapter: weights and tokenizer. A router outlives a move of the
    model's folder and a new version of a library: these change its vectors by rounding at most."""
    passing = ("adapter", "model", "attention", "torch", "transformers")
    return {key: value for key, value in lm.identity().items() if key not in passing}
