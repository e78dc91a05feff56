"""Strategy switch: an adapter for every task from the frozen base, a router that grows, and what the run leaves."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest

from adaptinf.config import RunConfig
from adaptinf.data import TaskStream
from adaptinf.errors import ArtefactError, ConfigError, EmptyTaskError
from adaptinf.models import LanguageModel, load_model
from adaptinf.report import build_report
from adaptinf.report.reading import read_run
from adaptinf.report.tables import confusion_rows, routed_to
from adaptinf.report.wording import routing_sentence
from adaptinf.routing.measure import measure_routing
from adaptinf.routing.routed import load_routed_model, read_routed_settings
from adaptinf.store import read_json, read_table
from adaptinf.tuning import open_stream, run

LAST = "03_country_language"


@pytest.fixture(scope="module")
def base(
    tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], LanguageModel]:
    config = tiny_config()
    _, pretraining = open_stream(config, tmp_path_factory.mktemp("stream") / "quarantine.jsonl")
    return lambda: load_model(config.model, pretraining=pretraining, cache=config.cache_dir)


def test_the_adapter_of_a_task_is_the_one_it_would_have_alone(
    switched: Path, tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Nothing of the earlier tasks is in it: weights, order and seeds are functions of the task's place alone."""
    settings = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "carry_lora": "fresh"}
    alone = run(tiny_config(strategy="sequential", training=settings), tmp_path / "alone")
    for step in ("01_shapes_vqa", "02_digit_compare", LAST):
        one, other = (place / "steps" / step / "training" / "adapter" for place in (switched, alone))
        assert filecmp.cmpfiles(one, other, [file.name for file in one.iterdir()], shallow=False)[1:] == ([], [])


def test_the_router_learns_task_by_task_and_never_forgets_one(switched: Path) -> None:
    steps = sorted((switched / "steps").glob("*_*"))[1:]
    for number, step in enumerate(steps, start=1):
        described = read_json(step / "routing" / "router.json")
        assert described["names"] == read_json(switched / "metrics.json")["tasks"][:number]
        routes = read_table(step / "evaluation" / "routes.parquet").to_pylist()
        assert {row["routed"] for row in routes} <= set(described["names"])
        accuracy = read_json(step / "evaluation" / "routing.json")["routing_accuracy"]
        known = [row for row in routes if row["task"] in described["names"]]
        assert accuracy == np.mean([row["task"] == row["routed"] for row in known])
    assert read_json(switched / "metrics.json")["routing"]["routing_accuracy"] == accuracy > 0.5
    assert read_json(switched / "metrics.json")["routing"]["flops_per_request"] > 0


def test_an_answer_through_the_same_route_is_the_same_at_every_later_step(switched: Path) -> None:
    """Zero forgetting of the experts: what step 1 answered through shapes_vqa, the last step answers likewise."""
    answers = []
    for step in ("01_shapes_vqa", LAST):
        place = switched / "steps" / step / "evaluation"
        routed = {row["id"]: row["routed"] for row in read_table(place / "routes.parquet").to_pylist()}
        rows = read_table(place / "predictions.parquet").to_pylist()
        answers.append({r["id"]: (r["prediction"], r["nll"]) for r in rows if routed[r["id"]] == "shapes_vqa"})
    both = answers[0].keys() & answers[1].keys()
    assert both and all(answers[0][id][0] == answers[1][id][0] for id in both)
    assert np.allclose(*([one[id][1] for id in sorted(both)] for one in answers), rtol=1e-5)


def test_the_report_says_what_was_routed_where(switched: Path, tmp_path: Path) -> None:
    page = build_report(switched, tmp_path / "report.html").read_text()
    view = read_run(switched)
    assert "Which adapter answered" in page and "keeps nothing" in page and "Training budget" not in page
    assert routed_to(view) == [task.name for task in view.tasks]  # the base answered nothing
    confusion = read_json(switched / "metrics.json")["routing"]["confusion"]
    for row in confusion_rows(view):
        assert [requests for requests, _ in row.cells] == [confusion[row.task][name] for name in routed_to(view)]
        assert sum(share for _, share in row.cells) == pytest.approx(1)
    accuracy = read_json(switched / "metrics.json")["routing"]["routing_accuracy"]
    assert f"{100 * accuracy:.1f}" in routing_sentence(view)


def test_no_sample_stays_in_a_pool(switched: Path) -> None:
    for step in sorted((switched / "steps").glob("*_*"))[1:]:
        table = read_table(step / "pool" / "pool.parquet")
        assert set(table["task"].to_pylist()) == {step.name.partition("_")[2]}
        assert not any(table["kept"].to_pylist())
    assert json.loads((switched / "metrics.json").read_text())["n_pool_after"] == [0, 0, 0]


def test_a_selector_chooses_inside_the_task(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny_config(
        strategy="switch", budget=0.25, routing={"selector": "paper", "encoder": "hidden", "router": "anchor"}
    )
    out = run(config, tmp_path / "run")
    metrics, stream = read_json(out / "metrics.json"), read_json(out / "stream.json")
    assert metrics["n_selected"] == [max(1, round(0.25 * task["n_train"])) for task in stream["tasks"]]
    assert metrics["flops"]["features"] > 0
    identities = [read_json(file)["identity"] for file in sorted(out.glob("steps/*/features/identity.json"))]
    assert len({one["model"]["adapter"] for one in identities}) == 1  # by the untrained adapter on the base, every time


def test_what_is_left_is_served_in_a_fresh_process_and_by_peft(
    switched: Path, base: Callable[[], LanguageModel], tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    model = load_routed_model(switched / "routed", base())
    with pytest.raises(EmptyTaskError, match="none of the router's tasks"):
        measure_routing(model, TaskStream(()), [], tiny_config())
    stream, _ = open_stream(tiny_config(), tmp_path / "quarantine.jsonl")
    requests = [sample for task in stream for sample in task.test[:2]]
    answers = model.generate(requests, max_new_tokens=4)
    routes = {r["id"]: r for r in read_table(switched / "steps" / LAST / "evaluation" / "routes.parquet").to_pylist()}
    assert [answer.task for answer in answers] == [routes[sample.id]["routed"] for sample in requests]
    for task in model.adapters.names:
        plain = base()
        plain.model = peft.PeftModel.from_pretrained(plain.model, str(switched / "routed" / "adapters" / task))
        mine = [sample for sample, answer in zip(requests, answers, strict=True) if answer.task == task]
        assert plain.generate(mine, max_new_tokens=4, batch_size=8) == [a.text for a in answers if a.task == task]


def test_a_damaged_or_foreign_directory_is_refused(switched: Path, base: Callable[[], LanguageModel]) -> None:
    lm = base()
    with pytest.raises(ArtefactError, match="is no routed model"):
        read_routed_settings(switched / "steps" / LAST / "routing")
    with pytest.raises(ArtefactError, match="incomplete"):
        load_routed_model(switched, lm)
    file = switched / "routed" / "adapters" / "shapes_vqa" / "adapter_model.safetensors"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtefactError, match="hash"):
            load_routed_model(switched / "routed", lm)
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pruning": {"pool_budget": 0.5}}, "has no effect on switch"),
        ({"evaluation": {"prompts_together": 2}}, "may route apart"),
        ({"training": {"regulariser": "l2"}}, "have nothing in common"),
        ({"routing": {"selector": "papre"}}, "did you mean 'paper'"),
        ({"routing": {"model": "small-vlm"}}, "pre-trained on a stream"),
        ({"routing": {"exemplars": 1.5}}, "exemplars"),
        ({"routing": {"layer": 99, "encoder": "hidden"}}, "layers"),
    ],
)
def test_impossible_settings_are_explained(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, settings: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tiny_config(strategy="switch", **settings), tmp_path / "run")
