"""The comparison's book-keeping: which cells run, that none runs twice, and what is computed from the rows."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from adaptinf.errors import ConfigError
from benchmarks.quality.__main__ import FIRST, LAST, main
from benchmarks.quality.goals import Goal, goals, saved_share
from benchmarks.quality.grid import GRIDS, HALVED, cell_of, main_rows, read, run_grid, write
from benchmarks.quality.report import markdown
from benchmarks.quality.statistics import estimate, summarise
from benchmarks.quality.streams import STREAMS, Cell, configuration, order_of


def row(cell: Cell, accuracy: float = 0.5, **more: object) -> dict:
    tasks = order_of(cell.stream, cell.order)
    return {
        **cell._asdict(),
        "average_accuracy": accuracy,
        "relative_gain": None,
        "forgetting": 0.1,
        "worst_task": accuracy / 2,
        "learned_accuracy": accuracy,
        "zero_shot_average": 0.1 if cell.strategy == "multitask" else None,  # only it shows every task to the base
        "strict": accuracy,
        "final_nll": 1.0,
        "zero_shot_nll": None,
        "tasks": tasks,
        "final_scores": [accuracy] * len(tasks),
        "zero_shot": [0.1] * len(tasks),
        "n_trained": 10,
        "near_duplicates": None,
        "selection_seconds": 1.0,
        "training_seconds": 2.0,
        "selection_flops": 1e12,
        "training_flops": 2e12,
        "version": "0",
    } | more


def cells(strategy: str, budget: float, seeds: range = range(5)) -> list[Cell]:
    return [Cell("text", seed % 3, seed, strategy, budget) for seed in seeds]


def test_orders_are_permutations_that_stay() -> None:
    for stream, about in STREAMS.items():
        assert order_of(stream, 0) == list(about.tasks)
        for order in (1, 2):
            assert sorted(order_of(stream, order)) == sorted(about.tasks)
            assert order_of(stream, order) != list(about.tasks)
            assert order_of(stream, order) == order_of(stream, order)
    assert len(STREAMS["multimodal"].tasks) >= 12


def test_every_cell_is_a_valid_run() -> None:
    for make in GRIDS.values():
        found = list(make())
        assert len(set(found)) == len(found)
        for stream, strategy in {(cell.stream, cell.strategy) for cell in found}:
            config = configuration(Cell(stream, 1, 3, strategy, 0.25), Path("data"), Path("cache"))
            assert (config.strategy, config.seed) == (strategy.split()[0], 3)
            assert config.data.order == order_of(stream, 1)
    assert {cell.seed for cell in main_rows()} == set(range(5))
    assert {cell.order for cell in main_rows()} == set(range(3))


def test_variants_and_what_does_not_exist() -> None:
    made = configuration(Cell("text", 0, 0, "paper features.layers=last selection.bins=9", 0.5), Path("d"), Path("c"))
    assert (made.strategy, made.features.layers, made.selection.bins, made.budget) == ("paper", "last", 9, 0.5)
    with pytest.raises(ConfigError, match="is no stream"):
        configuration(Cell("txt", 0, 0, "paper", 0.5), Path("d"), Path("c"))
    with pytest.raises(ConfigError, match="binz"):
        configuration(Cell("text", 0, 0, "paper selection.binz=9", 0.5), Path("d"), Path("c"))


def test_no_cell_runs_twice_and_time_is_kept(tmp_path: Path) -> None:
    file, ran, now = tmp_path / "rows.parquet", [], [0.0]

    def run(cell: Cell) -> dict:
        ran.append(cell)
        now[0] += 100
        return row(cell)

    def go(cells: list[Cell], seconds: float) -> tuple[int, int]:
        with ThreadPoolExecutor(1) as pool:
            return run_grid(iter(cells), file, run, seconds=seconds, pool=pool, clock=lambda: now[0])

    wanted = cells("paper", 0.25)
    # 100 seconds each: after two, a third could end at 300 > 290.
    assert go(wanted, 290) == (2, 3)
    assert [cell_of(one) for one in read(file)] == sorted(wanted[:2])
    assert go([*wanted, *wanted], 1e9) == (3, 0)
    assert ran == wanted
    assert go(wanted, 1e9) == (0, 0)


def test_cells_run_side_by_side(tmp_path: Path) -> None:
    file, together = tmp_path / "rows.parquet", threading.Barrier(2, timeout=30)

    def run(cell: Cell) -> dict:
        together.wait()  # never passed by one alone
        return row(cell)

    with ThreadPoolExecutor(2) as pool:
        assert run_grid(iter(cells("paper", 0.25, range(4))), file, run, seconds=1e9, pool=pool, workers=2) == (4, 0)
    assert [one["seed"] for one in read(file)] == [0, 3, 1, 2]  # by order, then seed


def test_a_cell_that_fails_loses_nothing(tmp_path: Path) -> None:
    file, begun, failed = tmp_path / "rows.parquet", threading.Event(), threading.Event()

    def run(cell: Cell) -> dict:
        if cell.seed == 1:
            begun.wait(30)
            failed.set()
            raise RuntimeError("killed")
        if cell.seed == 2:
            begun.set()
            failed.wait(30)  # still running when the other fails
        return row(cell)

    with ThreadPoolExecutor(2) as pool, pytest.raises(RuntimeError, match="killed"):
        run_grid(iter(cells("paper", 0.25)), file, run, seconds=1e9, pool=pool, workers=2)
    assert sorted(one["seed"] for one in read(file)) == [0, 2]  # and none was begun after the failure


def test_relative_gain_is_against_joint_training_of_the_same_seed_and_order(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    one, other = Cell("redundant", 0, 0, "paper", 0.25), Cell("redundant", 1, 1, "paper", 0.25)
    joint = row(one._replace(strategy="multitask", budget=1.0), final_scores=[0.5, 0.8, 0.0, 0.4])
    write(file, [row(one, final_scores=[0.25, 0.8, 0.9, 0.6]), row(other), joint])
    gains = {(found["seed"], found["strategy"]): found["relative_gain"] for found in read(file)}
    # The task that joint training scores 0 on does not count.
    assert gains[0, "paper"] == pytest.approx(100 * (0.5 + 1 + 1.5) / 3)
    assert gains[1, "paper"] is None
    assert gains[0, "multitask"] == pytest.approx(100)


def test_intervals() -> None:
    values = [0.1, 0.4, 0.2, 0.35]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = estimate(values)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert np.isnan(estimate([0.3]).half)


def test_differences_are_paired_and_costs_read_from_randoms_curve() -> None:
    noise = [0.0, 0.3, -0.2, 0.1, 0.05]
    rows = [row(cell, 0.4 + noise[cell.seed]) for cell in cells("random_replay", 0.25)]
    rows += [row(cell, 0.6 + noise[cell.seed]) for cell in cells("random_replay", 0.5)]
    rows += [row(cell, 0.45 + noise[cell.seed]) for cell in cells("paper", 0.25)]
    rows += [row(cell, 0.9, zero_shot_nll=5.0) for cell in cells("multitask", 1.0)]
    for one in rows:
        one["final_nll"] = {("random_replay", 0.25): 3.0, ("random_replay", 0.5): 2.0, ("paper", 0.25): 2.8}.get(
            (one["strategy"], one["budget"]), 1.0
        )
    found = {(s.strategy, s.budget): s for s in summarise(rows)}
    gain = found["paper", 0.25].gain
    assert gain is not None and gain.mean == pytest.approx(0.05) and gain.half == pytest.approx(0, abs=1e-12)
    assert found["paper", 0.25].measures["average_accuracy"].half > 0.1  # what pairing takes away
    # Random has 0.45 on average at 0.25 and 0.65 at 0.5; the preset 0.5.
    assert found["paper", 0.25].random_budget == pytest.approx(0.25 + 0.25 * 0.05 / 0.2)
    assert found["paper", 0.25].random_budget_nll == pytest.approx(0.25 + 0.25 * 0.2)
    assert found["multitask", 1.0].random_budget is None and found["multitask", 1.0].random_budget_nll is None
    assert found["random_replay", 0.25].gain is None


def test_settings_are_compared_with_the_same_without_them() -> None:
    rows = [row(cell, 0.3) for cell in cells("random_replay", 0.25)] + [row(cell, 0.4) for cell in cells("paper", 0.25)]
    rows += [row(cell, 0.45, final_nll=1.5) for cell in cells("paper features.k=64", 0.25)]
    found = {s.strategy: s for s in summarise(rows)}
    settings, plain = found["paper features.k=64"], found["paper"]
    assert settings.gain is not None and settings.gain.mean == pytest.approx(0.05)
    assert settings.nll_gain is not None and settings.nll_gain.mean == pytest.approx(0.5)
    assert plain.gain is not None and plain.gain.mean == pytest.approx(0.1)
    (line,) = [line for line in markdown(list(found.values()), []).splitlines() if "features.k=64" in line]
    assert line.split(" | ")[2:7] == ["45.0 ± 0.0", "+5.0 ± 0.0", "22.5 ± 0.0", "1.50", "+0.500 ± 0.000"]


def test_report_holds_every_strategy(tmp_path: Path) -> None:
    rows = [row(cell, 0.4 + cell.seed / 50) for cell in cells("random_replay", 0.25)]
    rows += [row(cell, 0.5, final_nll=0.9 + cell.seed / 100) for cell in cells("paper", 0.25)]
    rows += [row(cell, 0.5, zero_shot_nll=4.0) for cell in cells("multitask", 1.0)]
    rows += [row(cells("paper", 0.25)[0]._replace(stream="multimodal"), 0.3)]
    rows_file, document, html = tmp_path / "rows.parquet", tmp_path / "quality.md", tmp_path / "quality.html"
    write(rows_file, rows)
    document.write_text(f"before\n{FIRST}\nold\n{LAST}\nafter\n")
    for _ in range(2):  # writing again changes nothing
        main(["--rows", str(rows_file), "report", "--document", str(document), "--page", str(html)])
        text = document.read_text()
        assert text.startswith("before") and text.endswith("after\n") and "old" not in text
        assert text.count("| paper |") == 2 and text.count("| multitask |") == 1
        assert "44.0 ± 3.9" in text  # 40, 42, 44, 46, 48
        assert "+6.0 ± 3.9" in text and "-0.080 ± 0.020" in text
        assert "scores 10.0 ± 0.0 on all tasks, jointly trained on everything 50.0 ± 0.0; NLL 4.00 and 1.00." in text
    assert html.read_text().count("<svg") == 2
    assert markdown(summarise(read(rows_file)), goals(read(rows_file))).strip() in text
    document.write_text("no place")
    with pytest.raises(SystemExit, match="has no place for the tables"):
        main(["--rows", str(rows_file), "report", "--document", str(document), "--page", str(html)])


def named(found: list[Goal], *parts: str) -> Goal:
    (one,) = [goal for goal in found if all(part in goal.about for part in parts)]
    return one


def multimodal(strategy: str, budget: float, accuracies: list[float], **more: object) -> list[dict]:
    return [
        row(Cell("multimodal", seed % 3, seed, strategy, budget), accuracy, **more)
        for seed, accuracy in enumerate(accuracies)
    ]


def test_goals_of_an_empty_table_are_not_met_and_not_missed() -> None:
    found = goals([])
    assert len(found) > 10 and all(one.met is None and one.found == "not run" for one in found)


def test_a_quarter_is_judged_by_gain_interval_and_forgetting() -> None:
    rows = multimodal("random_replay", 0.25, [0.3, 0.4, 0.5], forgetting=0.08)
    rows += multimodal("adaptinf", 0.25, [0.32, 0.43, 0.52], forgetting=0.03, relative_gain=101.0)
    rows += multimodal("paper", 0.25, [0.4, 0.3, 0.6], forgetting=0.05, relative_gain=99.0)
    found = goals(rows)
    assert named(found, "`adaptinf`", "relative gain").met and not named(found, "`paper`", "relative gain").met
    ahead = named(found, "`adaptinf`", "25 %: average accuracy minus")
    # 2, 3 and 2 points: 2.33 with half an interval of 4.303 * 0.577 / sqrt(3).
    assert ahead.met and ahead.found == "+2.3 points ± 1.4, 3 runs"
    assert named(found, "`paper`", "25 %: average accuracy minus").met is False  # +10, -10, +10
    assert named(found, "`adaptinf`", "forgetting").met and not named(found, "`paper`", "forgetting").met
    assert named(found, "`adaptinf`", "forgetting").found == "3.0 points, random replay 8.0, 3 runs"
    rows = multimodal("random_replay", 0.25, [0.3], forgetting=-0.08)  # better at the end than when it was learned
    for mine, met in ((-0.01, True), (0.01, False)):
        found = goals(rows + multimodal("adaptinf", 0.25, [0.3], forgetting=mine))
        assert named(found, "`adaptinf`", "forgetting").met is met
    single = goals(multimodal("random_replay", 0.25, [0.3]) + multimodal("adaptinf", 0.25, [0.9]))
    assert named(single, "`adaptinf`", "25 %: average accuracy minus").met is False  # one run has no interval


def test_an_eighth_is_judged_against_every_selector_on_the_seeds_that_both_have() -> None:
    rows = multimodal("adaptinf", 0.125, [0.3, 0.5])
    rows += multimodal("random_replay", 0.125, [0.25, 0.4]) + multimodal("el2n", 0.125, [0.29])
    rows += multimodal("multitask", 1.0, [0.9, 0.9]) + multimodal("full", 0.25, [0.9])
    ahead = named(goals(rows), "multimodal", "12.5 %", "average")
    assert ahead.met and ahead.found == "above 2 of 2; least minus `el2n`: +1.0 points, 1 run"
    rows += multimodal("ccs", 0.125, [0.35, 0.5])
    ahead = named(goals(rows), "multimodal", "12.5 %", "average")
    assert ahead.met is False and "above 2 of 3; least minus `ccs`: -2.5 points" in ahead.found
    assert named(goals(rows), "text", "12.5 %", "average").met is None


def test_pruning_is_judged_against_the_same_unpruned() -> None:
    cell = Cell("redundant", 0, 0, "paper", 0.25)
    for loss, near, met in ((0.004, 0.95, (True, True)), (0.006, 0.85, (False, False))):
        rows = [row(cell, 0.5), row(cell._replace(strategy=HALVED[0]), 0.5 - loss, near_duplicates=near)]
        found = goals(rows)
        assert HALVED[0].startswith("paper ")
        assert (named(found, HALVED[0], "minus").met, named(found, HALVED[0], "near").met) == met


def test_routing_must_be_above_every_single_adapter_and_the_interval_too() -> None:
    rows = multimodal("multitask", 1.0, [0.3, 0.3, 0.3]) + multimodal("random_replay", 0.25, [0.1, 0.3, 0.5])
    assert named(goals(rows), "`switch`", "average").met is None
    for scores, met in (([0.33, 0.34, 0.56], False), ([0.43, 0.44, 0.55], False), ([0.7, 0.8, 0.9], True)):
        found = named(goals(rows + multimodal("switch", 1.0, scores)), "`switch`", "average")
        assert found.met is met and found.found.endswith("of 2")
    few = multimodal("paper", 0.5, [0.9])  # one run has no interval: it cannot be told from
    assert named(goals(rows + few + multimodal("switch", 1.0, [0.7, 0.8, 0.9])), "`switch`", "average").met
    assert {cell.strategy.split()[0] for cell in GRIDS["routed"]()} == {"switch"}


def test_selecting_is_paid_from_what_it_saves() -> None:
    assert saved_share(15.0, 100.0, 0.5) == pytest.approx(0.15)
    assert saved_share(15.0, 100.0, 0.125) == pytest.approx(0.15 / 7)
    rows = multimodal("paper", 0.25, [0.3], selection_seconds=40.0, training_seconds=100.0)
    assert named(goals(rows), "`paper`", "selecting").found == "13.3 % at most, 1 run"
    rows += multimodal("paper", 0.5, [0.3], selection_seconds=40.0, training_seconds=100.0)
    assert named(goals(rows), "`paper`", "selecting").met is False


def test_again_compares_everything_but_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    rows_file = tmp_path / "rows.parquet"
    write(rows_file, [row(cell) for cell in cells("paper", 0.25)])
    arguments = ["--rows", str(rows_file), "again", "--cells", "2", "--data", "data"]
    monkeypatch.setattr("benchmarks.quality.__main__.run_cell", lambda cell, *_: row(cell, selection_seconds=9.0))
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"cells": 2, "different": 0}
    monkeypatch.setattr("benchmarks.quality.__main__.run_cell", lambda cell, *_: row(cell, accuracy=0.6))
    assert main(arguments) == 1
