"""The study of influence on tiny problems: its regression is one, edits come near retraining, tables tell the rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from adaptinf.data import Sample
from adaptinf.models import LanguageModel, wrap
from benchmarks.influence import __main__ as command
from benchmarks.influence import demonstrations, ranking, unlearning, vectors
from benchmarks.influence.ranking import Regression
from benchmarks.influence.report import goals, markdown
from benchmarks.influence.unlearning import Problem, Sizes
from benchmarks.influence.vectors import Labelled
from tests import tiny_tokenizers

WORDS = ("circle", "square", "blue", "red", "two", "what", "is", "there", "colour", "of", "the")


def noisy(n: int, d: int, classes: int = 3) -> Labelled:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, d))
    scores = x @ generator.normal(size=(d, classes)) + generator.normal(size=(n, classes))
    return Labelled(x, np.eye(classes)[scores.argmax(1)])


def test_the_regression_is_autograds() -> None:
    samples = noisy(30, 4)
    regression = Regression(samples, 0.05)
    x = torch.from_numpy(np.column_stack([samples.x, np.ones(30)]))
    y = torch.from_numpy(samples.y.argmax(1))

    def objective(w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x @ w.view(5, 3), y) + 0.05 / 2 * w.square().sum()

    w = torch.from_numpy(np.random.default_rng(1).normal(size=15))
    hessian = torch.autograd.functional.hessian(objective, w)
    np.testing.assert_allclose(regression.hessian(w.numpy()), hessian.numpy(), rtol=1e-10, atol=1e-12)
    slope = torch.autograd.functional.jacobian(objective, w)
    found = regression.gradients(w.numpy()).mean(0) + 0.05 * w.numpy()
    np.testing.assert_allclose(found, slope.numpy(), rtol=1e-10, atol=1e-12)
    best = torch.from_numpy(regression.fit())
    assert float(torch.autograd.functional.jacobian(objective, best).abs().max()) < 1e-9


def test_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SAMPLES": 40, "QUERIES": 12, "COMPONENTS": 5, "K": 64}.items():
        monkeypatch.setattr(ranking, name, value)
    rows = {row["method"]: row for row in ranking.measure("made up", noisy(80, 5), 0)}
    assert set(rows) == {"exact", "inner product", "less", "sketched", "sketched, damping 0.1", "datainf"}
    assert rows["exact"]["leave_one_out"] > 0.9
    assert rows["less"]["one_step"] > rows["sketched"]["one_step"]
    assert all(row["study"] == "ranking" and row["problem"] == "made up" for row in rows.values())


def test_demonstrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstrations, "SIZES", (20, 60))
    found = list(demonstrations.measure("made up", noisy(80, 30), 0))
    rows = {(row["n"], row["penalty"], row["alpha"]): row for row in found}
    assert len(rows) == len(found) == 2 * 2 * 3
    assert rows[60, False, 0.1]["test"] > 0.8
    # fewer than dimensions, the published order is the other way round
    areas = [rows[20, penalty, 1e-9]["wrong_labels"] for penalty in (True, False)]
    assert sum(areas) == pytest.approx(1)


@pytest.fixture
def lm() -> LanguageModel:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer = tiny_tokenizers.trained(
        [" ".join(WORDS)], 300, special, template=template, eos_token="<|end|>", pad_token="<pad>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.15, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return wrap(model.eval(), tokenizer, name="tiny-llama")


def samples(n: int) -> list[Sample]:
    generator = np.random.default_rng(0)
    text = lambda most: " ".join(generator.choice(WORDS, int(generator.integers(1, most))))  # noqa: E731
    return [Sample.from_instruction(f"s{i}", text(6), text(4), task="t") for i in range(n)]


@pytest.mark.parametrize("trained", ["head", "B"])
def test_edits_come_near_retraining(lm: LanguageModel, trained: str) -> None:
    sizes = Sizes(samples=16, edited=2, held_out=4, passes=60, slope=1e-5, epochs=2)
    tied = lm.base.get_input_embeddings().weight.clone()
    rows = list(unlearning.measure(lm, samples(20), samples(6), Problem(trained, 0.1), sizes, 0))
    edits = ("removal", "correction", "query")
    assert [(row["edit"], row["way"]) for row in rows] == [
        (edit, way)
        for edit in edits
        for way in ("newton", "paper", "continued", *(["adam"] if edit == "removal" else []))
    ]
    for row in rows:
        assert row["seconds"] > 0 and row["flops"] > 0
        if row["way"] == "newton":
            assert row["left"] < 0.3
            assert row["edited_about_nll"] == pytest.approx(row["retrained_about_nll"], rel=0.05)
    assert torch.equal(lm.base.get_input_embeddings().weight, tied)  # the head was untied


def row(problem: str, way: str, seed: int, left: float, flops: float) -> dict:
    scores = {f"{when}_{name}": 0.5 for when in ("before", "edited", "retrained") for name in ("accuracy", "about_nll")}
    return {
        "study": "unlearning", "problem": problem, "decay": 0.1, "edit": "removal", "way": way, "seed": seed,
        "left": left, "flops": flops, "seconds": 2 * flops, "damping": 0.2, **scores,
    }  # fmt: skip


SHOWN = {"study": "demonstrations", "problem": "digits", "n": 40, "penalty": True, "seed": 0}
ROWS = [
    *[row("head", "newton", seed, left, 0.2) for seed, left in enumerate((0.1, 0.3))],
    *[row("head", "adam", seed, 0.05, 5.0) for seed in range(2)],
    {"study": "ranking", "problem": "digits", "method": "less", "seed": 0, "leave_one_out": 0.5, "one_step": 0.9},
    {**SHOWN, "alpha": 1.0, "test": 0.9, "itself": 1.0},
    {**SHOWN, "alpha": 1e-9, "wrong_labels": 0.75},
    {"study": "ranking", "reason": "ranking on texts: no such file"},
]


def test_goals_are_told_from_the_rows() -> None:
    found = {goal.about: goal for goal in goals(ROWS[:-1])}
    left = found["head, removal: distance left"]
    assert left.met and left.found.startswith("20.0 ± ")  # Student's t with one degree of freedom is wide
    assert found["head, removal: operations, of retraining by Adam"].found == "4.0 ± 0.0 %"
    assert found["head, removal: operations, of retraining by Adam"].met
    assert found["head, removal: held-out accuracy, from the retrained model's"].met
    assert not found["`less` on digits: Spearman with leaving one out"].met
    assert found["DETAIL (published) on 40 of digits: Spearman with leaving one out"].met
    worse = goals([{**one, "left": 0.4} if one.get("way") == "newton" else one for one in ROWS[:-1]])
    assert not next(goal for goal in worse if "distance" in goal.about).met
    text = markdown(ROWS)
    assert "| head | removal | newton | 20.0 ± " in text
    assert "| digits | 40 | published | 1e-09 |  |  | 0.75 |" in text
    assert "Left out: ranking on texts: no such file." in text


def test_the_command_writes_rows_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(command, "measure", lambda study, data, seeds: (one for one in ROWS if one["study"] == study))
    document, file = tmp_path / "influence.md", tmp_path / "r" / "rows.json"
    document.write_text(f"before\n{command.FIRST}\nold\n{command.LAST}\nafter\n")
    words = ["--data", str(tmp_path), "--rows", str(file), "--document", str(document)]
    assert command.main(words) == 0
    torch.set_num_threads(threads)
    assert json.loads(file.read_text()) == [one for study in command.STUDIES for one in ROWS if one["study"] == study]
    assert len(capsys.readouterr().out.splitlines()) == len(ROWS)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith(f"{command.LAST}\nafter\n")
    assert "old" not in text and "| head | removal | newton |" in text
    monkeypatch.setattr(command, "measure", lambda study, data, seeds: iter(ROWS[4:5]))
    assert command.main([*words, "--only", "ranking"]) == 0
    torch.set_num_threads(threads)
    assert sorted(one["study"] for one in json.loads(file.read_text())) == [
        "demonstrations", "demonstrations", "ranking", "unlearning", "unlearning", "unlearning", "unlearning",
    ]  # fmt: skip


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SOURCES", {"texts": vectors.texts})
    for study, missing in (("ranking", "p3_minilm_rows"), ("unlearning", unlearning.MODEL)):
        [found] = command.measure(study, tmp_path, range(1))
        assert found["study"] == study
        assert missing in found["reason"]
