"""Routers as artefacts: ``router.json`` and ``router.safetensors`` in a directory that is complete or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptinf.errors import ArtefactError, ConfigError, IdentityError
from adaptinf.routing.anchors import AnchorRouter
from adaptinf.routing.arrow import ArrowRouter
from adaptinf.routing.autoencoder import AutoencoderRouter
from adaptinf.routing.centroid import NearestCentroidRouter
from adaptinf.routing.encoders import Identified, PictureEncoder
from adaptinf.routing.router import FeatureRouter
from adaptinf.routing.switch import SwitchNetwork
from adaptinf.store import create, is_complete, read_json, read_tensors, verify, write_json, write_tensors

KINDS: dict[str, type[FeatureRouter[Any]]] = {
    kind.kind: kind for kind in (SwitchNetwork, AnchorRouter, AutoencoderRouter, NearestCentroidRouter, ArrowRouter)
}
DESCRIPTION, TENSORS = "router.json", "router.safetensors"


def save_router(router: FeatureRouter, directory: Path) -> None:
    """Write what the router learned. No request's text is in it: vectors, sums and weights only.

    Raises ConfigError where a router is there already.
    """
    if is_complete(directory):
        raise ConfigError("a router is there", item=str(directory), remedy="save into another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with create(directory, {"kind": f"router/{router.kind}"}) as staging:
        write_router(router, staging)


def write_router(router: FeatureRouter, directory: Path) -> None:
    """The two files of a router, into a directory that is or will be an artefact."""
    description = {
        "kind": router.kind,
        "names": router.names,
        "settings": router.settings(),
        "encoders": {mode: encoder.identity() for mode, encoder in _encoders(router).items()},
    }
    write_json(directory / DESCRIPTION, description)
    write_tensors(directory / TENSORS, router.state())


def load_router(directory: Path, encoder: Identified, pictures: PictureEncoder | None = None) -> FeatureRouter:
    """The saved router, over encoders that must be those that it learned from.

    Raises ArtefactError for what is incomplete, changed since it was written, or no router, IdentityError naming what
    differs where an encoder is another one.
    """
    verify(directory)
    description, state = read_json(directory / DESCRIPTION), read_tensors(directory / TENSORS)
    foreign = ArtefactError("is no router that this version knows", item=str(directory), remedy="train it again")
    if not isinstance(description, dict) or description.get("kind") not in KINDS:
        raise foreign
    given = {"text": encoder} | ({"picture": pictures} if pictures is not None else {})
    found = {mode: one.identity() for mode, one in given.items()}
    if found != description["encoders"]:
        expected = description["encoders"]
        differing = sorted(
            f"{mode}.{key}"
            for mode in {*found, *expected}
            for key in {*found.get(mode, {}), *expected.get(mode, {})}
            if found.get(mode, {}).get(key) != expected.get(mode, {}).get(key)
        )
        raise IdentityError(
            f"learned from another encoder (it differs in: {', '.join(differing)})",
            item=str(directory),
            remedy="load it with the encoder that it was trained with",
        )
    kind = KINDS[description["kind"]]
    try:
        more = {"pictures": pictures} if kind.kind == AnchorRouter.kind else {}
        router = kind(encoder, **more, **description["settings"])
        router.restore(list(description["names"]), state)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise foreign from error
    return router


def _encoders(router: FeatureRouter) -> dict[str, Identified]:
    pictures = getattr(router, "pictures", None)
    return {"text": router.encoder} | ({"picture": pictures} if pictures is not None else {})
