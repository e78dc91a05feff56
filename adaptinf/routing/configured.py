"""Routers and their encoders as a run's settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from adaptinf.config import RunConfig
from adaptinf.errors import ConfigError
from adaptinf.models import LanguageModel, load_model
from adaptinf.routing.anchors import AnchorRouter
from adaptinf.routing.arrow import ArrowRouter, ModuleInputs
from adaptinf.routing.autoencoder import AutoencoderRouter
from adaptinf.routing.centroid import NearestCentroidRouter
from adaptinf.routing.encoders import HiddenEncoder, PictureEncoder, RequestEncoder, SketchEncoder
from adaptinf.routing.router import FeatureRouter
from adaptinf.routing.saving import load_router
from adaptinf.routing.switch import SwitchNetwork


class ConfiguredRouting:
    """Makes and loads the router of ``config.routing`` over the frozen base ``lm``, or the model that it names.

    ``adapters``: the directories by task, which may grow; ``arrow`` is made from them. Anchors are of pictures
    too where the encoding model has features of them (small-vlm).

    Raises what loading ``routing.model`` raises, and ConfigError for small-vlm there, which is pre-trained on a stream.
    """

    def __init__(self, config: RunConfig, lm: LanguageModel, adapters: Mapping[str, Path]) -> None:
        self.config, self.adapters = config, adapters
        self.inputs = ModuleInputs(lm, batch_size=config.evaluation.batch_size)
        eye = _encoding_model(config) or lm
        self.encoder: RequestEncoder = (
            SketchEncoder(eye, k=config.routing.k)
            if config.routing.encoder == "sketch"
            else HiddenEncoder(
                eye,
                layer=config.routing.layer,
                pooling=config.routing.pooling,
                batch_size=config.evaluation.batch_size,
            )
        )
        features = getattr(eye.encoder, "features", None) if config.routing.router == "anchor" else None
        self.pictures = PictureEncoder(features, eye.name) if features is not None else None

    def new(self) -> FeatureRouter:
        """A router that knows no task. Raises ConfigError for settings that it cannot have."""
        routing, seed = self.config.routing, self.config.seed
        if routing.router == "switch":
            return SwitchNetwork(self.encoder, exemplars=routing.exemplars, abstain=routing.abstain, seed=seed)
        if routing.router == "anchor":
            return AnchorRouter(self.encoder, self.pictures, abstain=routing.abstain)
        if routing.router == "arrow":
            return ArrowRouter(self.inputs, self.adapters, abstain=routing.abstain)
        if routing.router == "autoencoder":
            return AutoencoderRouter(self.encoder, abstain=routing.abstain, seed=seed)
        return NearestCentroidRouter(self.encoder, abstain=routing.abstain)

    def load(self, directory: Path) -> FeatureRouter:
        """A saved one; see :func:`load_router`."""
        if self.config.routing.router != "arrow":
            return load_router(directory, self.encoder, self.pictures)
        router = load_router(directory, self.inputs)
        assert isinstance(router, ArrowRouter)  # identities differ otherwise
        router.adapters = self.adapters
        return router


def _encoding_model(config: RunConfig) -> LanguageModel | None:
    name = config.routing.model
    if name is None:
        return None
    if name == "small-vlm":
        raise ConfigError(
            "is pre-trained on a stream",
            item="routing.model=small-vlm",
            remedy="leave routing.model out to use the run's own, or name another model",
        )
    named = replace(config.model, name=name, revision=None, quantization=None, max_length=None)
    return load_model(named, cache=config.cache_dir)
