"""Every strategy through the whole loop on real data: what is written, exact budgets, kept decisions."""

from __future__ import annotations

import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from adaptinf.capture import Features
from adaptinf.config import RunConfig
from adaptinf.errors import BudgetError, ConfigError, IdentityError
from adaptinf.selection import Pool, Selection, selector
from adaptinf.selection.baselines import RandomReplay
from adaptinf.store import read_json, read_table, verify
from adaptinf.tuning import STRATEGIES, loop, open_stream, run
from adaptinf.tuning.decisions import read_selection
from adaptinf.tuning.moments import load_moments

COLUMNS = [
    "id",
    "task",
    "is_new",
    "cluster",
    "scorer",
    "score",
    "selected",
    "kept",
    "reason",
    "duplicate_of",
    "max_similarity",
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_is_complete_and_its_budgets_are_exact(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, strategy: str
) -> None:
    pruned = strategy in ("paper", "released", "lite")
    config = tiny_config(strategy=strategy, pruning={"pool_budget": 0.5} if pruned else {})
    out = run(config, tmp_path / "run")
    metrics = json.loads((out / "metrics.json").read_text())
    stream = read_json(out / "stream.json")
    n_train = [task["n_train"] for task in stream["tasks"]]
    assert metrics["tasks"] == [task["name"] for task in stream["tasks"]] == config.data.order
    matrix = np.array(metrics["score_matrix"], float)
    assert matrix.shape == (4, 3)
    trained = [3] if strategy == "multitask" else [1, 2, 3]
    for step in range(4):
        assert np.isfinite(matrix[step]).all() == (step in (0, *trained))
    seen = np.cumsum(n_train)
    for i in range(3):
        if i + 1 not in trained:
            continue
        pool, selected = metrics["n_pool"][i], metrics["n_selected"][i]
        if strategy in ("sequential", "switch"):
            assert selected == n_train[i]
        elif strategy == "multitask":
            assert selected == pool == seen[-1]
        elif strategy == "released":
            assert selected <= pool  # its ceilings miss the budget: that is what the preset reproduces
        else:
            assert selected == min(round(0.5 * seen[i]), pool)
        if pruned:
            assert metrics["n_pool_after"][i] == min(round(0.5 * seen[i]), pool)
    for folder in sorted((out / "steps").iterdir()):
        for artefact in folder.iterdir():
            verify(artefact)
        if folder.name == "00_base" or not (folder / "pool").exists():
            continue
        table = read_table(folder / "pool" / "pool.parquet")
        assert set(COLUMNS) <= set(table.column_names)
        assert len(set(table["id"].to_pylist())) == len(table)
        assert all(table["reason"].to_pylist())
    for name in ("average_accuracy", "forgetting", "backward_transfer", "mean_average_accuracy"):
        assert name in metrics and name in metrics["metrics"]
    for key in ("seconds", "cpu_seconds", "flops"):
        assert metrics[key]["training"] > 0 and metrics[key]["total"] >= metrics[key]["training"]
    assert metrics["flops"]["features"] > 0 if pruned else metrics["flops"]["features"] == 0
    assert metrics["versions"]["torch"] and metrics["seed"] == 0


def test_less_takes_adams_state_from_the_step_before(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    out = run(tiny_config(strategy="less"), tmp_path / "run")
    for number, step in enumerate(sorted((out / "steps").glob("*_*"))[1:]):
        features = Features.load(step / "features")
        assert (features.direction is None) == (number == 0)
        assert (features.identity["preconditioners"] is None) == (number == 0)
        assert load_moments(step / "training", torch.device("cpu"))
    plain = run(tiny_config(strategy="random_replay"), tmp_path / "plain")
    assert not list(plain.glob("steps/*/training/moments*"))


def test_features_may_be_measured_once_at_arrival(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    pruning = {"pool_budget": 0.6}
    every, once = (
        run(tiny_config(strategy="paper", pruning=pruning, features={"refresh": refresh}), tmp_path / refresh)
        for refresh in ("step", "arrival")
    )
    earlier: Features | None = None
    for number, step in enumerate(sorted((once / "steps").glob("*_*"))[1:], start=1):
        found, anew = Features.load(step / "features"), Features.load(every / "steps" / step.name / "features")
        decisions = read_table(step / "selection" / "decisions.parquet")
        assert found.ids == decisions["id"].to_pylist()
        assert found.sketch is not None and found.hidden is not None
        if earlier is None:
            assert found.sketch.tobytes() == anew.sketch.tobytes() and found.flops == anew.flops
            assert found.identity == anew.identity
        else:
            kept = earlier.take(set(found.ids))
            assert 0 < len(kept) < len(earlier) and found.ids[: len(kept)] == kept.ids
            assert found.sketch[: len(kept)].tobytes() == kept.sketch.tobytes()
            assert found.hidden[: len(kept)].tobytes() == kept.hidden.tobytes()
            assert all((found.scores[name][: len(kept)] == kept.scores[name]).all() for name in kept.scores)
            assert len(found) == len(kept) + sum(decisions["is_new"].to_pylist()) and found.flops < anew.flops
            adapters = [one["adapter"] for one in found.identity["arrivals"]]
            assert len(adapters) == len(set(adapters)) == number
        earlier = found
    with pytest.raises(ConfigError, match="optimiser's directions"):
        run(tiny_config(strategy="less", features={"refresh": "arrival"}), tmp_path / "less")


def test_near_duplicates_may_be_looked_for_in_groups(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups are drawn down evenly, whatever the selector's clusters: none loses two while another could lose one."""
    config = tiny_config(
        strategy="rotation",
        pruning={"pool_budget": 0.6, "within": "group", "keep": "greedy"},
        features={"refresh": "arrival"},
    )
    monkeypatch.setattr(loop, "group_of", lambda sample: f"{sample.task} {zlib.crc32(sample.id.encode()) % 7}")
    out = run(config, tmp_path / "run")
    stream, _ = open_stream(config, tmp_path / "q.jsonl")
    groups = {sample.id: loop.group_of(sample) for task in stream for sample in task.train}
    sizes = np.cumsum([len(task.train) for task in stream])
    for seen, step in zip(sizes, sorted((out / "steps").glob("*_*"))[1:], strict=True):
        table = read_table(step / "pool" / "pool.parquet")
        stays = table["kept"].to_pylist()
        names = [groups[id] for id in table["id"].to_pylist()]
        before, after = Counter(names), Counter(name for name, kept in zip(names, stays, strict=True) if kept)
        assert sum(after.values()) == round(0.6 * seen) < len(names)
        level = max(after.values())
        assert all(after[name] >= min(before[name], level - 1) for name in before)
        assert max(before.values()) > level


@pytest.mark.parametrize("which", ["all", "seen", "new"])
def test_what_is_scored_after_a_step(tiny_config: Callable[..., RunConfig], tmp_path: Path, which: str) -> None:
    config = tiny_config(strategy="random_replay", evaluation={"tasks": which, "nll": False})
    metrics = read_json(run(config, tmp_path / "run") / "metrics.json")
    scored = np.array([[score is not None for score in row] for row in metrics["score_matrix"]])
    masks = {"all": np.ones((4, 3)), "seen": np.tril(np.ones((4, 3)), -1), "new": np.eye(4, 3, -1)}
    expected = masks[which].astype(bool)
    expected[0, 0] = expected[-1] = True  # the base on the first task, everything at last
    assert (scored == expected).all()
    assert (metrics["forgetting"] is None) == (which == "new")
    lost = np.mean([metrics["score_matrix"][i + 1][i] - metrics["score_matrix"][-1][i] for i in range(2)])
    assert metrics["forgetting_avalanche"] == pytest.approx(lost)


def test_a_preset_may_be_pretrained_on_other_tasks(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    recipe = {"tasks": ["digit_reading"], "train_limit": 20}
    stream, pretraining = open_stream(tiny_config(model={"pretrain": recipe}), tmp_path / "q.jsonl")
    assert {one.task for one in pretraining} == {"digit_reading"} and 0 < len(pretraining) <= 20
    assert [len(task.train) for task in stream] == [24, 24, 24]
    recipe["tasks"] = ["digit_reading", stream.tasks[0].name]
    with pytest.raises(ConfigError, match=f"{stream.tasks[0].name}.*are in the stream"):
        open_stream(tiny_config(model={"pretrain": recipe}), tmp_path / "q.jsonl")


def test_mixes_of_old_and_new_and_of_text_and_pictures(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Rehearsal asks no budget; a share of text is exact until there is no more text."""
    order = {"order": ["shapes_vqa", "country_language"], "train_limit": 16, "test_limit": 4}
    small = {"data": order, "training": {"steps": 1}, "evaluation": {"tasks": "new", "nll": False}}
    mixes = {"rehearsal": {"rehearsal": 3}, "random_replay": {"text_share": 0.75}}
    drawn, n_train = {}, []
    for strategy, selection in mixes.items():
        out = run(tiny_config(strategy=strategy, selection=selection, **small), tmp_path / strategy)
        n_train = [task["n_train"] for task in read_json(out / "stream.json")["tasks"]]
        last = read_table(out / "steps" / "02_country_language" / "selection" / "decisions.parquet")
        drawn[strategy] = Counter(last.filter(last["selected"])["task"].to_pylist())
        first = n_train[0] if strategy == "rehearsal" else round(0.5 * n_train[0])
        assert read_json(out / "metrics.json")["n_selected"] == [first, drawn[strategy].total()]
    budget = round(0.5 * sum(n_train))
    text = round(0.75 * budget)
    assert 0 < text < n_train[1]
    assert drawn == {
        "rehearsal": {"country_language": n_train[1], "shapes_vqa": 3},
        "random_replay": {"country_language": text, "shapes_vqa": budget - text},
    }


class Watching(RandomReplay):
    """Keeps what it is told of earlier steps."""

    name = "watching"
    seen: ClassVar[list[dict[str, int]]] = []

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        assert pool.n_trained is not None
        self.seen.append(dict(zip(pool.ids, pool.n_trained.tolist(), strict=True)))
        return super().select(pool, budget, seed)


def test_a_selector_learns_what_was_trained_on(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(selector._FACTORIES, "watching", lambda _: Watching())
    Watching.seen.clear()
    out = run(tiny_config(strategy="watching"), tmp_path / "run")
    counts: Counter[str] = Counter()
    for step, seen in zip(sorted((out / "steps").glob("0[1-9]_*")), Watching.seen, strict=True):
        assert seen == {id: counts[id] for id in seen}
        counts.update(read_selection(step / "selection"))
    assert max(counts.values()) > 1
    # a run that is continued knows it as well
    shutil.rmtree(min((out / "steps").glob("03_*")))
    before = Watching.seen[-1]
    run(tiny_config(strategy="watching"), out)
    assert Watching.seen[-1] == before


def test_another_configuration_in_the_same_directory_is_an_error(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny_config(strategy="random_replay", data={"order": ["country_language"]})
    run(config, tmp_path)
    with pytest.raises(IdentityError, match=r"training\.learning_rate"):
        run(
            tiny_config(
                strategy="random_replay", data={"order": ["country_language"]}, training={"learning_rate": 1e-4}
            ),
            tmp_path,
        )


def test_impossible_budgets_are_named(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="asks for 1000 samples of a pool of"):
        run(tiny_config(strategy="random_replay", budget=1000), tmp_path / "a")
    with pytest.raises(ConfigError, match="pool_budget: has no effect on random_replay"):
        run(tiny_config(strategy="random_replay", pruning={"pool_budget": 0.5}), tmp_path / "b")


def test_test_samples_beyond_the_context_are_counted_and_the_same_at_every_step(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Those of digit_compare are of 45 to 50 tokens."""
    out = run(
        tiny_config(
            strategy="sequential",
            data={"order": ["digit_compare", "country_language"]},
            model={"max_length": 47, "on_long": "drop"},
        ),
        tmp_path / "run",
    )
    tested = [read_json(step / "evaluation" / "result.json") for step in sorted((out / "steps").iterdir())]
    assert [one["n_dropped"]["digit_compare"] for one in tested] == [2, 2, 2]
    assert [one["n"]["digit_compare"] for one in tested] == [4, 4, 4]
    assert json.loads((out / "metrics.json").read_text())["counters"]["dropped_in_testing"] == 2
