"""A saved router routes as it did, in another process as well; anything else is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adaptinf.data import Sample
from adaptinf.errors import ArtefactError, ConfigError, IdentityError
from adaptinf.routing import (
    AnchorRouter,
    AutoencoderRouter,
    NearestCentroidRouter,
    SwitchNetwork,
    load_router,
    save_router,
)
from adaptinf.routing.router import FeatureRouter
from adaptinf.store import create, read_json, read_tensors, write_json, write_tensors

from .conftest import Given

KINDS = (SwitchNetwork, AnchorRouter, AutoencoderRouter, NearestCentroidRouter)
Blobs = Callable[..., tuple[dict[str, list[Sample]], Given]]


def trained(kind: type[FeatureRouter], samples: dict[str, list[Sample]], encoder: Given) -> FeatureRouter:
    router = kind(encoder, abstain=0.1)
    for name, own in samples.items():
        router.add_task(name, own)
    return router


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_routes_and_learns_as_what_was_saved(
    kind: type[FeatureRouter], blobs: Blobs, tmp_path: Path
) -> None:
    samples, encoder = blobs(4)
    last = samples.pop("task3")
    router = trained(kind, samples, encoder)
    save_router(router, tmp_path / "router")
    other = load_router(tmp_path / "router", encoder)
    assert type(other) is kind and other.settings() == router.settings()
    everything = [*samples["task0"], *last]
    for stage in ("as it was", "with one task more"):
        one, two = router.predict(everything), other.predict(everything)
        assert (one.probabilities == two.probabilities).all() and (one.novelty == two.novelty).all(), stage
        assert one.tasks == two.tasks and one.names == two.names
        router.add_task("task3" + stage, last)
        other.add_task("task3" + stage, last)
    with pytest.raises(ConfigError, match="a router is there"):
        save_router(router, tmp_path / "router")


def test_with_pictures(blobs: Blobs, tmp_path: Path) -> None:
    samples, encoder = blobs(2)
    pictures = Given({one.id: np.arange(3.0) for own in samples.values() for one in own}, "pictures")
    router = AnchorRouter(encoder, pictures)  # pyright: ignore[reportArgumentType]
    for name, own in samples.items():
        router.add_task(name, own)
    save_router(router, tmp_path / "router")
    other = load_router(tmp_path / "router", encoder, pictures)  # pyright: ignore[reportArgumentType]
    assert (other.predict(samples["task1"]).probabilities == router.predict(samples["task1"]).probabilities).all()
    with pytest.raises(IdentityError, match=r"picture\.encoder"):
        load_router(tmp_path / "router", encoder)


def test_no_text_of_a_request_is_written(blobs: Blobs, tmp_path: Path) -> None:
    samples, encoder = blobs(2)
    for kind in KINDS:
        save_router(trained(kind, samples, encoder), tmp_path / kind.kind)
        for file in (tmp_path / kind.kind).iterdir():
            content = file.read_bytes()
            assert b"hello" not in content and b"task0-" not in content, file


def test_what_is_refused(blobs: Blobs, tmp_path: Path) -> None:
    samples, encoder = blobs(2)
    place = tmp_path / "router"
    with pytest.raises(ArtefactError, match="is incomplete"):
        load_router(place, encoder)
    save_router(trained(SwitchNetwork, samples, encoder), place)
    with pytest.raises(IdentityError, match=r"another encoder \(it differs in: text\.encoder\)"):
        load_router(place, Given(encoder.vectors, "another"))
    description, state = read_json(place / "router.json"), read_tensors(place / "router.safetensors")

    def written(name: str, description: object, state: dict[str, np.ndarray]) -> Path:
        with create(tmp_path / name, {}) as staging:
            write_json(staging / "router.json", description)
            write_tensors(staging / "router.safetensors", state)
        return tmp_path / name

    assert load_router(written("same", description, state), encoder).names == ["task0", "task1"]
    foreign = [
        ([], state),
        (description | {"kind": "unknown"}, state),
        (description | {"settings": {"colour": 3}}, state),
        (description | {"settings": {"hidden": -1}}, state),
        (description | {"names": ["task0"]}, state),
        (description, {name: array for name, array in state.items() if name != "w2"}),
        (description, state | {"w1": state["w1"][:, :5]}),
        (description, state | {"labels": state["labels"] + 1}),
    ]
    for number, (described, tensors) in enumerate(foreign):
        with pytest.raises(ArtefactError, match="is no router that this version knows"):
            load_router(written(f"foreign{number}", described, tensors), encoder)
    for kind in KINDS[1:]:
        save_router(trained(kind, samples, encoder), tmp_path / kind.kind)
        described = read_json(tmp_path / kind.kind / "router.json") | {"names": ["a", "b", "c"]}
        tensors = read_tensors(tmp_path / kind.kind / "router.safetensors")
        with pytest.raises(ArtefactError, match="is no router"):
            load_router(written(f"longer-{kind.kind}", described, tensors), encoder)
    with open(place / "router.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(ArtefactError, match=r"router\.safetensors: does not match its hash"):
        load_router(place, encoder)


def test_a_fresh_process_routes_the_same(llama: Callable, tmp_path: Path) -> None:
    """The base model, its encoder and the router from files alone."""
    from adaptinf.routing import HiddenEncoder

    from .conftest import request

    lm = llama()
    lm.model.save_pretrained(tmp_path / "base")
    lm.encoder.tokenizer.save_pretrained(tmp_path / "base")
    script = tmp_path / "route.py"
    script.write_text(
        """
import json, sys
from pathlib import Path
from adaptinf.config import ModelConfig
from adaptinf.data import Sample
from adaptinf.models import load_model
from adaptinf.routing import HiddenEncoder, SwitchNetwork, load_router, save_router
place = Path(sys.argv[1])
lm = load_model(ModelConfig(name=str(place / "base")), cache=place / "cache")
texts = {"ask": "what is the name of", "say": "SAY THIS: "}
samples = {task: [Sample.from_instruction(f"{task}{i}", text + str(i) * 3, "", task=task) for i in range(9)]
           for task, text in texts.items()}
if sys.argv[2] == "save":
    router = SwitchNetwork(HiddenEncoder(lm), exemplars=5)
    for task, own in samples.items():
        router.add_task(task, own)
    save_router(router, place / "router")
else:
    router = load_router(place / "router", HiddenEncoder(lm))
routes = router.predict([one for own in samples.values() for one in own])
print(json.dumps([routes.tasks, routes.probabilities.tolist()]))
"""
    )
    made = [
        subprocess.run(
            [sys.executable, str(script), str(tmp_path), what], capture_output=True, text=True, check=True, timeout=300
        ).stdout.splitlines()[-1]
        for what in ("save", "load")
    ]
    assert made[0] == made[1]
    tasks, _ = json.loads(made[0])
    assert tasks == ["ask"] * 9 + ["say"] * 9
    assert HiddenEncoder(lm)([request("x")]).shape == (1, 32)
