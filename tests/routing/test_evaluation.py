"""Scores through routes: what a wrong route costs, against the answers of one peft model an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from adaptinf.data import Sample, TaskDataset
from adaptinf.errors import EmptyTaskError, SampleTooLongError
from adaptinf.evaluation import evaluate_task
from adaptinf.models import LanguageModel, load_adapter
from adaptinf.routing import RoutedModel, Routes
from adaptinf.routing.evaluation import abstention_auroc, evaluate_routed

Llama = Callable[[], LanguageModel]


class Told:
    """Routes by a table; what is not in it is abstained from, as new as its text is long."""

    kind: ClassVar[str] = "told"

    def __init__(self, table: dict[str, str]) -> None:
        self.table, self.names, self.flops = table, ["a", "b"], 0.0

    def add_task(self, name: str, samples: Sequence[Sample]) -> None:
        raise NotImplementedError

    def predict(self, samples: Sequence[Sample]) -> Routes:
        self.flops += 7.0 * len(samples)
        tasks = [self.table.get(sample.id) for sample in samples]
        probabilities = np.array([[0.9, 0.1] if task == "a" else [0.2, 0.8] for task in tasks])
        return Routes(tasks, self.names, probabilities, np.array([len(sample.prompt) for sample in samples], float))


def dataset(name: str, answers: str = "yes") -> TaskDataset:
    texts = ["the quick", "brown", "fox jumps over", "and then", "it sleeps"]
    test = [Sample.from_instruction(f"{name}{i}", f"{name} {text}", answers, task=name) for i, text in enumerate(texts)]
    return TaskDataset(name, "", (), tuple(test), "rouge_l", 6)


TABLE = {f"a{i}": "a" for i in range(4)} | {"a4": "b", "b0": "b", "b1": "b", "b2": "a", "b3": "b"}  # b4 to the base


@pytest.fixture
def model(llama: Llama, saved: dict[str, Path]) -> RoutedModel:
    made = RoutedModel(llama(), Told(TABLE))
    for name in ("a", "b"):
        made.add_adapter(name, saved[name])
    return made


def test_scores_are_those_of_the_adapters_that_answered(
    llama: Llama, saved: dict[str, Path], model: RoutedModel
) -> None:
    tasks = [dataset("a"), dataset("b"), dataset("c")]
    found = evaluate_routed(model, tasks, batch_size=3)
    alone = {}
    for name in ("a", "b", None):
        lm = llama()
        if name is not None:
            load_adapter(lm, saved[name])
        alone[name] = {task.name: evaluate_task(lm, task, batch_size=8).predictions.to_pylist() for task in tasks}
    for task, routed, oracle in zip(tasks, found.results, found.oracle, strict=True):
        own = task.name if task.name in ("a", "b") else None
        for i, sample in enumerate(task.test):
            for result, through in ((routed, TABLE.get(sample.id)), (oracle, own)):
                row, expected = result.predictions.to_pylist()[i], alone[through][task.name][i]
                assert (row["id"], row["prediction"]) == (sample.id, expected["prediction"])
                assert row["nll"] == pytest.approx(expected["nll"], rel=1e-4)
        assert routed.nll == pytest.approx(np.mean(routed.predictions["nll"]))
        assert (routed.n, routed.metric, routed.name) == (5, "rouge_l", task.name)


def test_metrics_of_the_routes(model: RoutedModel) -> None:
    found = evaluate_routed(model, [dataset("a"), dataset("b"), dataset("c")], nll=False)
    metrics = found.metrics()
    assert metrics["routing_accuracy"] == 7 / 10  # task c is none of the router's
    assert metrics["routing_accuracy_by_task"] == {"a": 4 / 5, "b": 3 / 5}
    assert metrics["abstained"] == 1
    assert metrics["confusion"]["a"] == {"a": 4, "b": 1, "base": 0}
    assert metrics["confusion"]["b"] == {"a": 1, "b": 3, "base": 1}
    # of 9 settled routes five at 0.9 (4 right) and four at 0.8 (3 right)
    assert metrics["ece"] == pytest.approx((abs(5 * 0.9 - 4) + abs(4 * 0.8 - 3)) / 9)
    assert metrics["flops_per_request"] == 7.0
    routed, oracle = (np.mean([one.score for one in results]) for results in (found.results, found.oracle))
    assert metrics["oracle_gap"] == pytest.approx(oracle - routed)
    assert found.routes.column_names == ["id", "task", "routed", "confidence", "novelty"]
    assert found.routes["routed"].to_pylist().count(None) == 6


def test_prompts_of_one_route_may_be_asked_together(model: RoutedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def generate(samples: Sequence[Sample], **_: object) -> list[str]:
        asked.append([sample.id for sample in samples])
        return ["1. yes\n2. yes"] * len(samples)

    monkeypatch.setattr(model.lm, "generate", generate)
    (result,) = evaluate_routed(model, [dataset("a")], nll=False, prompts_together=2).results
    assert asked[:2] == [["a0 + a1", "a2 + a3"], ["a4"]]  # through a, and through b
    assert result.predictions["prediction"].to_pylist() == ["yes"] * 4 + ["1. yes\n2. yes"]


def test_novelty_tells_outside_from_inside(model: RoutedModel) -> None:
    inside = [Sample.from_instruction(f"i{i}", "x" * i, "", task="a") for i in range(1, 5)]
    outside = [Sample.from_instruction(f"o{i}", "x" * (i + 2), "", task="?") for i in range(1, 5)]
    pairs = [(b > a) + (a == b) / 2 for a in range(1, 5) for b in range(3, 7)]
    assert abstention_auroc(model, inside, outside) == pytest.approx(np.mean(pairs))


def test_samples_that_cannot_be_taken(model: RoutedModel) -> None:
    task = dataset("a")
    long = Sample.from_instruction("long", "x" * 400, "yes", task="a")
    mixed = TaskDataset("a", "", (), (*task.test, long), "rouge_l", 6)
    with pytest.raises(SampleTooLongError, match="long"):
        evaluate_routed(model, [mixed], nll=False)
    (result,) = evaluate_routed(model, [mixed], nll=False, on_error="drop").results
    assert (result.n, result.n_dropped) == (5, 1)
    for test in ((), (long,)):
        with pytest.raises(EmptyTaskError, match="a: no test sample can be used"):
            evaluate_routed(model, [TaskDataset("a", "", (), test, "rouge_l", 6)], on_error="drop")
