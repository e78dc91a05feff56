"""Arrow against dense decompositions in float64, token by token, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptinf.config import LoraConfig
from adaptinf.data import Sample
from adaptinf.errors import (
    AdapterMismatchError,
    ArtefactError,
    ConfigError,
    EmptyTaskError,
    IdentityError,
    NonFiniteError,
    UnsupportedModelError,
)
from adaptinf.models import LanguageModel, add_lora
from adaptinf.routing import ArrowRouter, HiddenEncoder, ModuleInputs, Router, load_router, save_router
from adaptinf.routing.adapters import Factors
from adaptinf.routing.arrow import prototype
from adaptinf.store import create, read_json, read_tensors, write_json, write_tensors

from .conftest import request

Llama = Callable[[], LanguageModel]
Made = Callable[[str, dict[str, Tensor]], Path]
ROUNDING = 2.0**-24
MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")
TEXTS = {"a": "aaaa bbbb ", "z": "ZZZZ YYYY "}
REQUESTS = {
    task: [request(f"{task}{i}", task, text[i % 3 :] * (1 + i % 4)) for i in range(8)] for task, text in TEXTS.items()
}


def apart(one: Tensor, other: np.ndarray) -> float:
    """Largest difference of two vectors whose sign means nothing."""
    return float(min(np.abs(one.double().numpy() - sign * other).max() for sign in (1, -1)))


@pytest.mark.parametrize(("into", "out", "rank"), [(9, 5, 3), (3, 40, 7), (40, 2, 7), (1, 1, 1), (64, 64, 16)])
def test_prototypes_are_those_of_the_dense_matrix(into: int, out: int, rank: int) -> None:
    rng = np.random.default_rng(into)
    a, b = (torch.tensor(rng.normal(size=size), dtype=torch.float32) for size in ((into, rank), (rank, out)))
    found = prototype(Factors(a, b))
    _, values, rows = np.linalg.svd(b.double().numpy().T @ a.double().numpy().T)
    gap = values[0] - values[1] if len(values) > 1 else values[0]
    # a unit vector rounded to float32, and by how much rounding in float64 turns a singular vector
    assert apart(found, rows[0]) <= ROUNDING + 100 * 2.0**-52 * values[0] / gap
    for scale in (1e-6, -300.0):
        assert apart(prototype(Factors(a, b * scale)), rows[0]) <= 2 * ROUNDING + 100 * 2.0**-52 * values[0] / gap


def test_prototypes_are_those_of_peft() -> None:
    """Its power iteration is as far as 15 steps go: the second value is half the first."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(size, 4)))[0] for size in (20, 30))
    b, a = left * [8.0, 4.0, 2.0, 1.0], right.T
    theirs = ArrowLoraLinearLayer.top_right_singular_vec_from_BA(
        SimpleNamespace(rng_seed=0),  # pyright: ignore[reportArgumentType]
        torch.tensor(a, dtype=torch.float32),
        torch.tensor(b, dtype=torch.float32),
    )
    ours = prototype(Factors(torch.tensor(a.T, dtype=torch.float32), torch.tensor(b.T, dtype=torch.float32)))
    assert apart(ours, right[:, 0]) <= 4 * ROUNDING
    assert apart(theirs, ours.double().numpy()) < 1e-6  # 4^-15 of the start's share, and float32


def test_an_adapter_that_adds_nothing_has_no_direction() -> None:
    assert prototype(Factors(torch.randn(5, 2), torch.zeros(2, 3))).tolist() == [0.0] * 5


def inputs_of(lm: LanguageModel, sample: Sample) -> dict[str, Tensor]:
    """What the modules are given at the tokens of one prompt, float64 [T, in]."""
    kept: dict[str, Tensor] = {}
    hooks = [
        lm.model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: kept.update({name: args[0][0].double()})
        )
        for name in MODULES
    ]
    with torch.no_grad():
        lm.model(input_ids=lm.encoder.encode_prompt(sample).input_ids[None])
    for hook in hooks:
        hook.remove()
    return kept


def test_scores_are_averages_over_tokens_and_modules(llama: Llama) -> None:
    lm, rng = llama(), np.random.default_rng(0)
    sizes = {name: lm.model.get_submodule(name).in_features for name in MODULES}
    rows = {name: torch.tensor(rng.normal(size=(3, size)), dtype=torch.float32) for name, size in sizes.items()}
    rows = {name: one / one.norm(dim=1, keepdim=True) for name, one in rows.items()}
    rows[MODULES[0]][2] = 0
    samples = [one for own in REQUESTS.values() for one in own]
    found = ModuleInputs(lm, batch_size=3).alignment(samples, rows)
    assert found.shape == (16, 3) and found.dtype == torch.float64
    for sample, score in zip(samples, found, strict=True):
        expected = np.zeros(3)
        for name, x in inputs_of(lm, sample).items():
            for token in x.numpy():
                cosines = np.abs(rows[name].double().numpy() @ token) / np.linalg.norm(token)
                expected += cosines / len(x) / len(MODULES)
        assert score.numpy() == pytest.approx(expected, abs=1e-5)  # the states are float32, through two layers
    alone = torch.cat([ModuleInputs(lm).alignment([sample], rows) for sample in samples])
    assert found.numpy() == pytest.approx(alone.numpy(), abs=1e-5)


@pytest.fixture
def made(llama: Llama, tmp_path: Path) -> Made:
    """``made(name, {module: direction})``: an adapter of rank 1 that answers to one direction at each module."""

    def make(name: str, directions: dict[str, Tensor]) -> Path:
        folder, lm = tmp_path / name, llama()
        folder.mkdir()
        state = {}
        for number, (module, direction) in enumerate(directions.items()):
            key = f"base_model.model.{module}.lora_%s.weight"
            state[key % "A"] = 7.0**number * direction[None].float()
            state[key % "B"] = torch.ones(lm.model.get_submodule(module).out_features, 1)
        save_file({key: weight.contiguous() for key, weight in state.items()}, folder / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": list(directions)}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        return folder

    return make


@pytest.fixture
def adapters(llama: Llama, made: Made) -> dict[str, Path]:
    """Of each task one that answers to what sets the inputs of its requests apart from the other's."""
    lm = llama()
    means = {
        task: {name: torch.stack([inputs_of(lm, one)[name].mean(0) for one in own[:3]]).mean(0) for name in MODULES}
        for task, own in REQUESTS.items()
    }
    found = {}
    for task, other in (("a", "z"), ("z", "a")):
        directions = {}
        for name in MODULES:
            own, away = means[task][name], means[other][name]
            directions[name] = own - away * (own @ away) / (away @ away)
        found[task] = made(task, directions)
    return found


def test_requests_go_to_the_adapter_that_answers_to_them(llama: Llama, adapters: dict[str, Path]) -> None:
    samples = [one for own in REQUESTS.values() for one in own]
    scores = []
    for order in (["a", "z"], ["z", "a"]):
        router = ArrowRouter(ModuleInputs(llama()), adapters)
        assert isinstance(router, Router)
        for name in order:
            router.add_task(name, [])
        routes = router.predict(samples)
        assert routes.tasks == [sample.task for sample in samples]
        assert routes.probabilities.sum(axis=1) == pytest.approx(1)
        assert ((routes.novelty > 0) & (routes.novelty < 1)).all()
        scores.append(routes.probabilities[:, [order.index("a"), order.index("z")]])
    assert scores[0] == pytest.approx(scores[1], abs=1e-12)


def test_abstaining_takes_samples(llama: Llama, adapters: dict[str, Path]) -> None:
    router = ArrowRouter(ModuleInputs(llama()), adapters, abstain=0.2)
    with pytest.raises(EmptyTaskError, match="a: has no sample"):
        router.add_task("a", [])
    router.add_task("a", REQUESTS["a"])
    own, foreign = router.predict(REQUESTS["a"]), router.predict(REQUESTS["z"])
    assert sum(task is None for task in own.tasks) == 1  # floor(0.2 * 8)
    assert foreign.tasks == [None] * 8
    assert foreign.novelty.min() > own.novelty.max()


def test_the_adapter_that_the_model_carries_does_not_matter(llama: Llama, adapters: dict[str, Path]) -> None:
    lm = llama()
    router = ArrowRouter(ModuleInputs(lm), adapters)
    for name in adapters:
        router.add_task(name, [])
    before = router.predict(REQUESTS["a"]).probabilities
    add_lora(lm, LoraConfig(r=2), seed=0)
    for name, weight in lm.model.named_parameters():
        if "lora_B" in name:
            nn.init.ones_(weight)
    assert (router.predict(REQUESTS["a"]).probabilities == before).all()


def test_a_saved_router_routes_the_same(llama: Llama, adapters: dict[str, Path], tmp_path: Path) -> None:
    router = ArrowRouter(ModuleInputs(llama()), adapters, abstain=0.1, temperature=0.03)
    router.add_task("a", REQUESTS["a"])
    place = tmp_path / "router"
    save_router(router, place)
    other = load_router(place, ModuleInputs(llama()))
    assert isinstance(other, ArrowRouter)
    with pytest.raises(ConfigError, match="z: has no adapter"):
        other.add_task("z", REQUESTS["z"])
    other.adapters = adapters
    samples = [one for own in REQUESTS.values() for one in own]
    for name in ("", "z"):
        if name:
            router.add_task(name, REQUESTS[name])
            other.add_task(name, REQUESTS[name])
        one, two = router.predict(samples), other.predict(samples)
        assert one.tasks == two.tasks
        assert (one.probabilities == two.probabilities).all() and (one.novelty == two.novelty).all()
    with pytest.raises(IdentityError, match=r"text\.encoder"):
        load_router(place, HiddenEncoder(llama()))
    description, state = read_json(place / "router.json"), read_tensors(place / "router.safetensors")
    for number, (names, tensors) in enumerate(
        [
            (["a", "b"], state),
            (["a"], state | {"limits": np.ones(2)}),
            (["a"], state | {f"prototypes.{MODULES[0]}": np.zeros((2, 32), np.float32)}),
        ]
    ):
        with create(tmp_path / f"foreign{number}", {}) as staging:
            write_json(staging / "router.json", description | {"names": names})
            write_tensors(staging / "router.safetensors", tensors)
        with pytest.raises(ArtefactError, match="is no router"):
            load_router(tmp_path / f"foreign{number}", ModuleInputs(llama()))


def test_what_is_refused(
    llama: Llama, adapters: dict[str, Path], saved: dict[str, Path], made: Made, tmp_path: Path
) -> None:
    lm = llama()
    broken = made("broken", {MODULES[0]: torch.full((32,), torch.inf)})
    narrow = made("narrow", {MODULES[0]: torch.ones(31)})
    paths = {**adapters, "b": saved["b"], "broken": broken, "narrow": narrow, "nowhere": tmp_path / "nowhere"}
    router = ArrowRouter(ModuleInputs(lm), paths)
    with pytest.raises(EmptyTaskError, match="router arrow: knows no task"):
        router.predict(REQUESTS["a"])
    router.add_task("a", [])
    for name, error, text in (
        ("a", ConfigError, "a: is known to the router"),
        ("unknown", ConfigError, "unknown: has no adapter"),
        ("b", AdapterMismatchError, r"do not share 2 modules, among them model\.layers\.0\.mlp\.down_proj"),
        ("broken", NonFiniteError, "broken"),
        ("narrow", AdapterMismatchError, "does not fit tiny-llama"),
        ("nowhere", ArtefactError, "no readable adapter"),
    ):
        with pytest.raises(error, match=text):
            router.add_task(name, [])
    assert router.names == ["a"] and router.predict(REQUESTS["a"]).tasks == ["a"] * 8
    assert router.predict([]).tasks == []
    with pytest.raises(ConfigError, match="temperature: is 0"):
        ArrowRouter(ModuleInputs(lm), paths, temperature=0)


def test_modules_that_do_not_see_each_token_once(llama: Llama) -> None:
    lm = llama()
    lm.model.model.side = nn.Linear(32, 4)  # pyright: ignore[reportAttributeAccessIssue]
    side, rows = lm.model.model.side, {"model.side": torch.ones(1, 32)}  # pyright: ignore[reportAttributeAccessIssue]

    def refused() -> bool:
        with pytest.raises(UnsupportedModelError, match=r"tiny-llama: model\.side is not given the tokens of a prompt"):
            ModuleInputs(lm).alignment(REQUESTS["a"], rows)
        return not any(module._forward_pre_hooks for module in lm.model.modules())

    assert refused()  # nobody runs it
    layers = lm.model.model.layers  # pyright: ignore[reportAttributeAccessIssue]
    hooks = [layers[0].mlp.register_forward_hook(lambda _, args, __: void(side(args[0][:, :1])))]
    assert refused()  # one token of each prompt
    hooks[0].remove()
    hooks = [layer.mlp.register_forward_hook(lambda _, args, __: void(side(args[0]))) for layer in layers]
    assert refused()  # twice
    hooks[0].remove()
    assert ModuleInputs(lm).alignment(REQUESTS["a"], rows).shape == (8, 1)


def void(_: Tensor) -> None:
    """Of a hook: the output stays as it is."""


def test_prototypes_of_saved_adapters(llama: Llama, saved: dict[str, Path]) -> None:
    """From the files, with ranks and scalings that differ, against their dense products."""
    router = ArrowRouter(ModuleInputs(llama()), {"a": saved["a"], "c": str(saved["c"])})
    for name in ("a", "c"):
        router.add_task(name, [])
    for row, name in enumerate(("a", "c")):
        state = load_file(saved[name] / "adapter_model.safetensors")
        for module, found in router._prototypes.items():
            key = f"base_model.model.{module}.lora_%s.weight"
            _, values, rows = np.linalg.svd(state[key % "B"].double().numpy() @ state[key % "A"].double().numpy())
            assert apart(found[row], rows[0]) <= 4 * ROUNDING + 1000 * 2.0**-52 * values[0] / (values[0] - values[1])
