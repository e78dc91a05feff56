"""Settings: round trips, overrides, and errors that name the key and the remedy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adaptinf.config import RunConfig, describe, from_dict, load_config, to_dict, to_yaml
from adaptinf.errors import ConfigError

TASKS = {"data": {"source": "files", "tasks": [{"name": "a", "train": ["a.jsonl"]}, {"name": "b", "format": "llava"}]}}


@pytest.mark.parametrize("raw", [{}, TASKS, {"budget": 7}, {"budget": 1.0}, {"features": {"layers": [0, -1]}}])
def test_round_trip_through_yaml(raw: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(raw)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    again = load_config(file)
    assert again == config
    assert to_yaml(again) == to_yaml(config)
    assert type(again.budget) is type(config.budget)


@settings(deadline=None, max_examples=60)
@example(rate=1.0, text="\x85", budget=1)
@given(
    rate=st.floats(min_value=1e-12, max_value=1e3),
    text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30),
    budget=st.one_of(st.integers(1, 10**12), st.floats(min_value=1e-9, max_value=1.0)),
)
def test_any_value_survives_yaml(rate: float, text: str, budget: float) -> None:
    config = load_config({"training": {"learning_rate": rate}, "data": {"order": [text]}, "budget": budget})
    again = from_dict(RunConfig, yaml.safe_load(to_yaml(config)))
    assert again == config
    assert type(again.budget) is type(budget)


def test_every_key_is_written_and_described() -> None:
    def keys(tree: dict[str, Any], prefix: str = "") -> list[str]:
        return [
            name
            for key, value in tree.items()
            for name in (keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key])
        ]

    described = [key for key in describe() if "[]" not in key.name]
    assert [key.name for key in described] == keys(to_dict(RunConfig()))
    assert all(key.help for key in describe())


def test_described_defaults_are_the_defaults() -> None:
    tree = to_dict(RunConfig())
    for key in describe():
        if "[]" in key.name:
            continue
        value: Any = tree
        for part in key.name.split("."):
            value = value[part]
        assert value == key.default, key.name


@pytest.mark.parametrize(
    ("raw", "item", "hint"),
    [
        ({"training": {"learning_rte": 1}}, "training.learning_rte", "training.learning_rate"),
        ({"learning_rate": 1e-3}, "learning_rate", "training.learning_rate"),
        ({"budgt": 3}, "budgt", "'budget'"),
        ({"trainin": {}}, "trainin", "'training'"),
        ({"data": {"tasks": [{"name": "a"}, {"nam": "b"}]}}, "data.tasks[1].nam", "data.tasks[1].name"),
        ({"qqqq": 1}, "qqqq", "valid keys: out, seed"),
    ],
)
def test_unknown_keys_name_the_nearest(raw: dict[str, Any], item: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert caught.value.item == item
    assert hint in caught.value.remedy


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"training": {"steps": "many"}}, "training.steps: expected int | null, got 'many'"),
        ({"training": {"steps": 2.5}}, "training.steps: expected int | null, got 2.5"),
        ({"training": {"steps": True}}, "training.steps: expected int | null, got True"),
        ({"seed": None}, "seed: expected int, got None"),
        ({"model": {"dtype": "fp8"}}, "model.dtype: expected float32 | bfloat16 | float16, got 'fp8'"),
        ({"features": {"layers": "top"}}, "features.layers: expected first | middle | last | all | whole | list of"),
        ({"features": {"k": 1000, "nonzeros": 3}}, "features: Sketch.nonzeros=3 must divide k=1000"),
        ({"features": {"sketch": "xorts", "k": 1000}}, "features: Sketch.k=1000 must be a power of two"),
        ({"features": {"sketch": "kron"}}, "features: Sketch.k=1024 gives kind 'kron' sides of 32 x 32"),
        ({"features": {"layers": [0, "x"]}}, "features.layers[1]: expected int, got 'x'"),
        ({"data": {"order": "a"}}, "data.order: expected list of str, got 'a'"),
        ({"data": {"verify_images": "maybe"}}, "data.verify_images: expected bool, got 'maybe'"),
        ({"lora": {"dropout": 1.5}}, "lora.dropout: must be >= 0 and <= 1, got 1.5"),
        ({"lora": {"dropout": float("nan")}}, "lora.dropout: must be >= 0 and <= 1, got nan"),
        ({"budget": 0}, "budget: must be > 0, got 0"),
        ({"budget": 1.5}, "budget: a share must be <= 1, got 1.5"),
        ({"pruning": {"pool_budget": 2.0}}, "pruning.pool_budget: a share must be <= 1"),
        ({"training": 3}, "training: expected keys and values, got 3"),
        ([1, 2], "configuration: expected keys and values, got [1, 2]"),
    ],
)
def test_wrong_values_name_key_and_choices(raw: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert expected in str(caught.value)


def test_numbers_as_yaml_reads_them(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as text."""
    file = tmp_path / "c.yaml"
    file.write_text("training: {learning_rate: 1e-3, steps: 2e2}\nlora: {alpha: 8}\n")
    config = load_config(file)
    assert (config.training.learning_rate, config.training.steps, config.lora.alpha) == (1e-3, 200, 8.0)
    assert isinstance(config.lora.alpha, float)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("seed", "3", 3),
        ("out", "2024", "2024"),
        ("out", "null", None),
        ("budget", "40", 40),
        ("budget", "0.5", 0.5),
        ("training.learning_rate", "1e-3", 1e-3),
        ("training.learning-rate", "0.1", 0.1),
        ("training.steps", "null", None),
        ("training.gradient_checkpointing", "true", True),
        ("features.layers", "last", "last"),
        ("features.layers", "[1, 2]", [1, 2]),
        ("selection.n_clusters", "auto", "auto"),
        ("selection.n_clusters", "7", 7),
        ("selection.scorers", "el2n,entropy", ["el2n", "entropy"]),
        ("selection.scorers", "[el2n]", ["el2n"]),
        ("lora.target_modules", "all-linear", "all-linear"),
        ("lora.target_modules", "q_proj", ["q_proj"]),
        ("model.pretrain.steps", "5", 5),
    ],
)
def test_overrides_are_read_by_the_type_of_the_key(key: str, text: str, expected: object) -> None:
    value: Any = load_config({}, {key: text})
    for part in key.replace("-", "_").split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


def test_part_of_a_section_keeps_the_defaults_of_the_rest() -> None:
    found = load_config({"routing": {"exemplars": 3}, "training": {"epochs": 2.0}})
    assert found.routing == dataclasses.replace(RunConfig().routing, exemplars=3)
    assert found.training == dataclasses.replace(RunConfig().training, epochs=2.0)


def test_overrides_leave_the_rest() -> None:
    config = load_config({"training": {"batch_size": 3}}, {"training.steps": "4"})
    assert (config.training.batch_size, config.training.steps) == (3, 4)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("training.stps", "1", "did you mean 'training.steps'?"),
        ("trainin.steps", "1", "did you mean 'training.steps'?"),
        ("seed.x", "1", "unknown key"),
        ("training.steps", "[", "cannot read the value"),
        ("seed", "many", "seed: expected int, got 'many'"),
    ],
)
def test_wrong_overrides(key: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="(?s)" + message.replace("?", "\\?").replace("[", "\\[")):
        load_config({}, {key: text})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not YAML"),
        (b"\xff\xfe", "is not YAML"),
        (b"seed: 1\nseed: 2\n", "'seed' is written twice"),
        (b"training:\n  steps: 1\n  steps: 2\n", "'steps' is written twice"),
        (b"!!python/object/apply:os.system [ls]", "is not YAML"),
        (b"just text", "expected keys and values"),
    ],
)
def test_broken_files(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.touch()
    assert load_config(file) == RunConfig()


def test_configs_are_frozen_and_share_no_lists() -> None:
    first, second = RunConfig(), RunConfig()
    assert first.selection.scorers is not second.selection.scorers
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.seed = 1  # type: ignore[misc]


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADAPTINF_CACHE", str(tmp_path))
    assert RunConfig().cache_dir == tmp_path
    assert RunConfig(cache="~/x").cache_dir == Path.home() / "x"
    monkeypatch.delenv("ADAPTINF_CACHE")
    assert RunConfig().cache_dir == Path.home() / ".cache" / "adaptinf"
