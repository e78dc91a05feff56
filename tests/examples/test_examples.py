from __future__ import annotations

import re
from pathlib import Path

import pytest

from adaptinf.config import load_config, to_dict, to_yaml
from adaptinf.data import BUNDLE, load_stream
from adaptinf.evaluation import metric_names
from adaptinf.tuning.strategy import make_strategy

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} >= {"demo", "bundle", "llava-1.5-7b-paper-stream", "qwen2.5-vl", "smollm2"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_configuration(path, tmp_path):
    config = load_config(path)
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load_config(again) == config
    make_strategy(config)
    for task in config.data.tasks:
        assert task.metric in metric_names()
        assert bool(task.test) != (task.test_fraction is not None)
        assert not any(Path(file).is_absolute() for file in (*task.train, *task.test))
    if config.data.source == "bundle":
        assert set(config.data.order) <= set(BUNDLE)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_commands_in_an_example_parse(path):
    from adaptinf.cli.main import parse

    text = path.read_text()
    commands = re.findall(r"^#   adaptinf (.*)$", text, re.MULTILINE)
    assert commands
    assert any(path.name in command for command in commands)
    for command in commands:
        parse(command.split())
    variants = re.findall(r"^#   --(.*)$", text, re.MULTILINE)
    for variant in variants:
        words = f"--{variant}".split()
        overrides = {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}
        make_strategy(load_config(path, overrides))


def test_the_paper_stream_is_the_papers():
    config = load_config(next(path for path in EXAMPLES if "paper-stream" in path.stem))
    names = [task.name for task in config.data.tasks]
    assert names == ["llava_665k", "m3it", "minigpt4", "mantis", "lamm", "vision_flan"]
    assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (128, 256, 0.05)
    assert config.training.batch_size * config.training.gradient_accumulation == 128
    assert (config.training.learning_rate, config.training.warmup_ratio) == (2e-4, 0.03)


@pytest.mark.parametrize("name", [pytest.param("bundle", marks=pytest.mark.slow), "smollm2"])
def test_a_stream_of_the_bundle_can_be_read(name, shared_data, tmp_path):
    path = next(path for path in EXAMPLES if path.stem == name)
    limits = {
        "data.root": str(shared_data),
        "data.train_limit": "3",
        "data.test_limit": "2",
        "data.verify_images": "false",
    }
    config = load_config(path, limits)
    stream = load_stream(config.data, seed=config.seed, quarantine=tmp_path / "quarantine.jsonl")
    assert [task.name for task in stream] == config.data.order
    assert len(stream) >= (12 if name == "bundle" else 6)
    if name == "smollm2":
        assert not any(sample.images for task in stream for sample in (*task.train, *task.test))
    assert to_dict(config)["data"]["root"] == str(shared_data)
