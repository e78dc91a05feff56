from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from adaptinf.data import Sample, TaskDataset
from adaptinf.errors import ArtefactError, ConfigError, DataError, EmptyTaskError, SampleTooLongError
from adaptinf.evaluation import evaluate_stream, evaluate_task, read_results, write_results
from adaptinf.evaluation.evaluate import _source
from adaptinf.store import write_json


def sample(id, answer, *, task="t", prompt="What is it?", **meta):
    return Sample.from_instruction(id, prompt, answer, task=task, meta=meta)


def task(samples, name="t", metric="accuracy", max_new_tokens=7):
    return TaskDataset(name, "skill", (), tuple(samples), metric, max_new_tokens)


class Model:
    """Answers by a function of the sample; every sample has 10 tokens, and a token costs 2 FLOPs. Prompts of over 20
    letters are too long for it."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = []
        self.encoder = SimpleNamespace(encode=self._encode, encode_all=self._encode_all)

    @staticmethod
    def _encode(sample):
        return SimpleNamespace(id=sample.id, input_ids=torch.zeros(10))

    def _encode_all(self, samples, *, on_error):
        long = [s for s in samples if len(s.prompt) > 20]
        if long and on_error == "raise":
            raise SampleTooLongError("is too long", item=long[0].id)
        fitting = [self._encode(s) for s in samples if s not in long]
        return fitting, [(s.id, "SampleTooLongError: is too long") for s in long]

    def generate(self, samples, *, max_new_tokens, batch_size, progress=""):
        self.calls.append({"ids": [s.id for s in samples], "max_new_tokens": max_new_tokens, "batch_size": batch_size})
        return [self.answer(s) for s in samples]

    def flops(self, lengths):
        return 2.0 * sum(lengths)


@pytest.fixture
def likelihood(monkeypatch):
    """Instead of a pass over a model: the NLL of a sample is the length of its answer; rows come in another order."""
    calls = []

    def extract(lm, samples, **arguments):
        calls.append(arguments)
        rows = samples[::-1]
        return SimpleNamespace(
            ids=[s.id for s in rows],
            scores={"nll": np.array([float(len(s.answer)) for s in rows])},
            flops=lm.flops([10] * len(rows)),
        )

    monkeypatch.setitem(sys.modules, "adaptinf.capture", SimpleNamespace(extract=extract))
    return calls


def test_a_task_by_hand(likelihood):
    said = {"a": "red", "b": "Red.", "c": " blue ", "d": ""}
    samples = [sample(id, "red", prompt=f"{id}?") for id in said]
    model = Model(lambda s: said[s.id])
    result = evaluate_task(model, task(samples), limit=None, batch_size=3, seed=0)
    assert (result.name, result.metric, result.n, result.n_unparsable) == ("t", "accuracy", 4, 1)
    assert (result.score, result.strict, result.normalised, result.nll) == (0.5, 0.25, 0.5, 3.0)
    assert result.flops == 2 * 2 * 40
    assert model.calls == [{"ids": list("abcd"), "max_new_tokens": 7, "batch_size": 3}]
    assert [(a["sketch"], a["scores"], a["hidden"]) for a in likelihood] == [(None, ("nll",), None)]
    assert result.predictions.to_pydict() == {
        "id": list("abcd"),
        "task": ["t"] * 4,
        "prediction": ["red", "Red.", " blue ", ""],
        "answer": ["red"] * 4,
        "score": [1, 1, 0, 0],
        "strict": [1, 0, 0, 0],
        "normalised": [1, 1, 0, 0],
        "parsed": [True, True, True, False],
        "nll": [3.0] * 4,
    }


def test_likelihoods_are_matched_by_id(likelihood):
    samples = [sample(f"s{n}", "x" * n) for n in (1, 5, 2)]
    result = evaluate_task(Model(lambda s: "x"), task(samples))
    assert result.predictions["nll"].to_pylist() == [1, 5, 2]
    assert result.nll == pytest.approx(8 / 3)


def test_without_likelihood_nothing_is_run_for_it(likelihood):
    result = evaluate_task(Model(lambda s: "red"), task([sample("a", "red")]), nll=False)
    assert math.isnan(result.nll)
    assert result.predictions["nll"].null_count == 0
    assert likelihood == []
    assert result.flops == 20


def test_what_a_metric_cannot_read_is_counted(likelihood):
    samples = [sample(id, "[0, 0, 1, 1]") for id in "abc"]
    said = {"a": "[0, 0, 1, 1]", "b": "on the left", "c": "[1, 1, 0, 0]"}
    result = evaluate_task(Model(lambda s: said[s.id]), task(samples, metric="iou@0.5"))
    assert result.n_unparsable == 2
    assert result.score == pytest.approx(1 / 3)
    assert result.predictions["parsed"].to_pylist() == [True, False, False]


def test_sari_compares_with_the_text_to_rewrite(likelihood):
    told = sample("a", "a b", prompt="irrelevant", source_text="a b c")
    below = sample("b", "a b", prompt="Simplify:\na b c")
    alone = sample("c", "a b", prompt="a b c")
    result = evaluate_task(Model(lambda s: "a b"), task([told, below, alone], metric="sari"))
    assert result.predictions["score"].to_pylist() == pytest.approx([1, 1, 1])
    copied = evaluate_task(Model(lambda s: "a b c"), task([told, below, alone], metric="sari"))
    scores = copied.predictions["score"].to_pylist()
    assert len(set(scores)) == 1
    assert scores[0] < 1
    named = sample("d", "a b", prompt="Rewrite this,\nsimply:\na b c", instruction="Rewrite this,\nsimply:")
    assert [_source(one) for one in (told, below, alone, named)] == ["a b c"] * 4


def test_a_limit_is_stable(likelihood):
    samples = [sample(f"s{n:03d}", "red") for n in range(100)]
    model = Model(lambda s: "red")
    for limit, given, seed in (
        (10, samples, 1),
        (20, samples, 1),
        (10, samples[::-1], 1),
        (10, samples, 2),
        (1000, samples, 1),
    ):
        evaluate_task(model, task(given), limit=limit, seed=seed)
    few, more, reversed_, other, everything = (call["ids"] for call in model.calls)
    assert len(few) == 10
    assert few == sorted(few)
    assert set(few) < set(more)
    assert reversed_ == few[::-1]
    assert set(other) != set(few)
    assert len(everything) == 100


def test_a_stream_is_written_and_read_back(tmp_path, likelihood):
    tasks = [
        task([sample("a", "red"), sample("b", "blue")], name="colours"),
        task([sample("c", "[0, 0, 1, 1]")], name="boxes", metric="iou"),
    ]
    model = Model(lambda s: "Red" if s.id == "a" else "?")
    results = evaluate_stream(model, tasks, batch_size=2)
    assert [result.name for result in results] == ["colours", "boxes"]
    write_results(tmp_path, results)
    found = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert found["scores"] == {"colours": 0.5, "boxes": 0.0}
    assert found["strict"]["colours"] == 0.0
    assert found["nll"] == {"colours": 3.5, "boxes": 12.0}
    assert found["n"] == {"colours": 2, "boxes": 1}
    assert found["n_unparsable"] == {"colours": 0, "boxes": 1}
    assert found["metric"] == {"colours": "accuracy", "boxes": "iou"}
    assert "sacrebleu" in found["versions"]
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table["task"].to_pylist() == ["colours", "colours", "boxes"]
    again = read_results(tmp_path)
    assert [r.predictions.to_pylist() for r in again] == [r.predictions.to_pylist() for r in results]
    for field in ("name", "metric", "score", "strict", "normalised", "nll", "n", "n_unparsable", "flops"):
        assert [getattr(r, field) for r in again] == [getattr(r, field) for r in results]


def test_an_unmeasured_likelihood_survives_writing(tmp_path, likelihood):
    write_results(tmp_path, [evaluate_task(Model(lambda s: "red"), task([sample("a", "red")]), nll=False)])
    assert json.loads((tmp_path / "result.json").read_text())["nll"] == {"t": None}
    assert math.isnan(read_results(tmp_path)[0].nll)


def test_equal_results_give_equal_bytes(tmp_path, likelihood):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, [evaluate_task(Model(lambda s: "red"), task([sample("a", "red")]))])
    for file in ("result.json", "predictions.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_files_that_do_not_belong_together_are_refused(tmp_path, likelihood):
    write_results(tmp_path, [evaluate_task(Model(lambda s: "red"), task([sample("a", "red")]))])
    found = json.loads((tmp_path / "result.json").read_text())
    write_json(tmp_path / "result.json", {**found, "n": {"t": 2}})
    with pytest.raises(ArtefactError, match="holds 1 predictions of t"):
        read_results(tmp_path)
    table = pq.read_table(tmp_path / "predictions.parquet").drop_columns(["nll"])
    pq.write_table(table, tmp_path / "predictions.parquet")
    with pytest.raises(ArtefactError, match="columns"):
        read_results(tmp_path)


def test_bad_tasks_are_named(likelihood):
    model = Model(lambda s: "red")
    with pytest.raises(EmptyTaskError, match="empty"):
        evaluate_task(model, task([], name="empty"))
    with pytest.raises(ConfigError, match="acuracy"):
        evaluate_task(model, task([sample("a", "red")], metric="acuracy"))
    with pytest.raises(ConfigError, match="must be >= 1"):
        evaluate_task(model, task([sample("a", "red")]), limit=0)
    with pytest.raises(DataError, match=r"^b: its answer 'red' holds nothing that iou compares"):
        evaluate_task(model, task([sample("a", "[0, 0, 1, 1]"), sample("b", "red")], metric="iou"))
    assert model.calls == [], "what can be known beforehand is refused before the model runs"


def test_samples_that_the_model_cannot_take(likelihood, tmp_path):
    model = Model(lambda s: "red")
    mixed = task([sample("a", "red"), sample("b", "blue", prompt="?" * 21), sample("c", "blue")])
    with pytest.raises(SampleTooLongError, match=r"^b: is too long"):
        evaluate_task(model, mixed)
    result = evaluate_task(model, mixed, on_error="drop")
    assert (result.n, result.n_dropped, result.score) == (2, 1, 0.5)
    assert result.predictions["id"].to_pylist() == ["a", "c"]
    write_results(tmp_path, [result])
    assert read_results(tmp_path)[0].n_dropped == 1
    with pytest.raises(EmptyTaskError, match="no test sample can be used: SampleTooLongError"):
        evaluate_task(model, task([mixed.test[1]]), on_error="drop")


def test_a_real_model(shared_data, tmp_path):
    """The stories model: greedy answers end a story, and the NLL is that of a plain forward pass."""
    from adaptinf.config import ModelConfig
    from adaptinf.models import load_model

    lm = load_model(ModelConfig(name=str(shared_data / "models" / "stories260K")), cache=tmp_path)
    answers = ["there was a little girl.", "the dog ran to the big tree.", "x"]
    samples = [sample(f"s{i}", answer, prompt="Once upon a time") for i, answer in enumerate(answers)]
    result = evaluate_task(lm, task(samples, metric="token_f1", max_new_tokens=5), batch_size=2)
    assert result.n == 3
    assert result.flops > 0
    assert len(set(result.predictions["prediction"].to_pylist())) == 1, "the same prompt is answered alike"
    for row, one in zip(result.predictions.to_pylist(), samples, strict=True):
        encoded = lm.encoder.encode(one)
        with torch.no_grad():
            logits = lm.model(input_ids=encoded.input_ids[None]).logits[0].double()
        labels = encoded.labels[1:]
        kept = labels != -100
        nll = -logits[:-1].log_softmax(-1)[kept].gather(1, labels[kept][:, None]).mean()
        assert row["nll"] == pytest.approx(float(nll), rel=1e-5)
