"""A routed model on disk: a router and the adapters of its tasks, without the base."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from adaptinf.config import RunConfig, load_config, to_yaml
from adaptinf.errors import ArtefactError, ConfigError
from adaptinf.models import LanguageModel
from adaptinf.models.lora import CONFIG, WEIGHTS
from adaptinf.routing.configured import ConfiguredRouting
from adaptinf.routing.model import RoutedModel
from adaptinf.routing.router import FeatureRouter
from adaptinf.routing.saving import save_router
from adaptinf.store import create, is_complete, verify

ADAPTERS, ROUTER, SETTINGS = "adapters", "router", "config.yaml"


def write_routed_model(directory: Path, config: RunConfig, router: FeatureRouter, adapters: Mapping[str, Path]) -> None:
    """``config.yaml``, ``router/`` and a standard peft directory ``adapters/<task>/`` for each task, into a directory
    that is or will be an artefact."""
    (directory / SETTINGS).write_text(to_yaml(config), encoding="utf-8")
    save_router(router, directory / ROUTER)
    for task, adapter in adapters.items():
        (directory / ADAPTERS / task).mkdir(parents=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(adapter / name, directory / ADAPTERS / task / name)


def save_routed_model(directory: Path, config: RunConfig, router: FeatureRouter, adapters: Mapping[str, Path]) -> None:
    """:func:`write_routed_model` as an artefact of its own, complete or not there.

    Raises ConfigError where there is one already.
    """
    if is_complete(directory):
        raise ConfigError("a routed model is there", item=str(directory), remedy="write into another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with create(directory, {"kind": "routed model"}) as staging:
        write_routed_model(staging, config, router, adapters)


def read_routed_settings(directory: Path | str) -> RunConfig:
    """The configuration that a routed model was made with; its ``model`` is the base.

    Raises ArtefactError for what is incomplete, changed since it was written, or no routed model.
    """
    directory = Path(directory)
    verify(directory)
    if not (directory / SETTINGS).exists() or not (directory / ROUTER).is_dir():
        raise ArtefactError(
            "is no routed model",
            item=str(directory),
            remedy="give what `adaptinf route train` wrote, or the folder routed/ of a run with strategy switch",
        )
    return load_config(directory / SETTINGS)


def load_routed_model(directory: Path | str, lm: LanguageModel, *, limit: int | None = None) -> RoutedModel:
    """The saved router and adapters over their base model; ``limit`` adapters stay on the device.

    Raises what :func:`read_routed_settings` raises, IdentityError where ``lm`` is another model than the router learned
    from, and AdapterMismatchError where an adapter does not fit it.
    """
    directory, config = Path(directory), read_routed_settings(directory)
    adapters = {adapter.name: adapter for adapter in sorted((directory / ADAPTERS).iterdir())}
    router = ConfiguredRouting(config, lm, adapters).load(directory / ROUTER)
    model = RoutedModel(lm, router, limit=limit)
    for task, adapter in adapters.items():
        model.add_adapter(task, adapter)
    return model
