"""``adaptinf influence`` end to end on a tiny model of a local folder, and its explained failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from adaptinf.capture import extract
from adaptinf.cli.main import main
from adaptinf.config import FeatureConfig, LoraConfig
from adaptinf.data import Sample
from adaptinf.influence.ranking import targeted_influence
from adaptinf.models import LanguageModel, add_lora, save_adapter, trainable_parameters
from adaptinf.tuning import moments as adam

POOL = [("what is the colour", "red"), ("is there a blue square", "yes"), ("two red triangles", "no"), ("the", "two")]
QUERY = [("is there a circle", "yes", "a"), ("what colour is the circle", "blue", "b")]
SKETCH = ["--features.k", "64"]


def write(file: Path, records: list[dict]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture
def lm(make_lm: Callable[..., LanguageModel]) -> LanguageModel:
    return make_lm(width=16, layers=2)


@pytest.fixture
def words(tmp_path: Path, lm: LanguageModel) -> list[str]:
    """The command with what it always needs."""
    lm.model.save_pretrained(tmp_path / "model")
    lm.encoder.tokenizer.save_pretrained(tmp_path / "model")
    pool = [{"id": f"p{i}", "instruction": ask, "response": say} for i, (ask, say) in enumerate(POOL)]
    query = [
        {"id": f"q{i}", "instruction": ask, "response": say, "task": task} for i, (ask, say, task) in enumerate(QUERY)
    ]
    files = [
        "--query",
        str(write(tmp_path / "query.jsonl", query)),
        "--pool",
        str(write(tmp_path / "pool.jsonl", pool)),
    ]
    return ["influence", *files, "--model.name", str(tmp_path / "model"), "--out", str(tmp_path / "o" / "i.parquet")]


def samples(records: list[tuple[str, str]], prefix: str) -> list[Sample]:
    return [Sample.from_instruction(f"{prefix}{i}", ask, say, task="t") for i, (ask, say) in enumerate(records)]


@pytest.mark.parametrize("method", ["less", "sketched", "datainf"])
def test_the_file_is_what_the_library_ranks(
    words: list[str], lm: LanguageModel, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *SKETCH, "--method", method]) == 0
    assert "4 samples ranked, 0 left out" in capsys.readouterr().out
    table = pq.read_table(tmp_path / "o" / "i.parquet").to_pydict()
    add_lora(lm, LoraConfig(), seed=0)
    sketch = FeatureConfig(k=64).make_sketch()
    pool, query = (
        extract(lm, samples(records, prefix), sketch=sketch, scores=(), hidden=None)
        for records, prefix in ((POOL, "p"), ([(ask, say) for ask, say, _ in QUERY], "q"))
    )
    wanted = targeted_influence(pool, query, ["a", "b"], method=method)  # pyright: ignore[reportArgumentType]
    assert table["rank"] == [0, 1, 2, 3]
    assert table["id"] == wanted.ids
    assert table["task"] == wanted.task
    assert table["score"] == pytest.approx(wanted.score.tolist(), rel=1e-4)
    assert table["score"] == sorted(table["score"], reverse=True)


def test_adams_moments_beside_the_adapter_give_the_direction(
    words: list[str], lm: LanguageModel, tmp_path: Path
) -> None:
    add_lora(lm, LoraConfig(r=2), seed=0)
    generator = torch.Generator().manual_seed(0)
    parameters = [parameter for _, parameter in trainable_parameters(lm)]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    save_adapter(lm, tmp_path / "run" / "adapter")
    file = tmp_path / "o" / "i.parquet"
    found = []
    for keep_moments in (False, True):
        if keep_moments:
            adam.save_moments(adam.moments_of(optimizer, lm.model), tmp_path / "run")
        assert main([*words, *SKETCH, "--adapter", str(tmp_path / "run" / "adapter")]) == 0
        found.append(dict(zip(*(pq.read_table(file)[name].to_pylist() for name in ("id", "score")), strict=True)))
    assert found[0].keys() == found[1].keys()
    assert found[0]["p0"] != pytest.approx(found[1]["p0"], rel=1e-2)


def test_failures_are_explained(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, broken = write(tmp_path / "empty.jsonl", []), tmp_path / "broken.jsonl"
    broken.write_text('{"id": "x"}\n')
    for change, message in (
        ({"--method": "trak"}, "--method trak: is no method"),
        ({"--query": str(empty)}, "empty.jsonl: has no sample"),
        ({"--pool": str(broken)}, "1 of 1 records are broken"),
        ({"--pool": str(tmp_path / "absent.jsonl")}, "cannot be read"),
        ({"--model.name": "small-vlm"}, "pre-trained on a stream"),
        ({"--training.steps": "3"}, "has no effect on this command"),
        ({"--data.order": "[a]"}, "has no effect on this command"),
    ):
        changed = [*words]
        for key, value in change.items():
            if key in changed:
                changed[changed.index(key) + 1] = value
            else:
                changed += [key, value]
        assert main(changed) == 2
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said
