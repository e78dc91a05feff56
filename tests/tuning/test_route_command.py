"""adaptinf route: a router for adapters that exist, its score, and the check that everything serves."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from adaptinf.cli.main import main
from adaptinf.store import read_json, write_json

TASKS = ("shapes_vqa", "digit_compare", "country_language")
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTINF_PROGRESS", "0")


def adapters(switched: Path, tasks: tuple[str, ...] = TASKS) -> list[str]:
    return [word for task in tasks for word in ("--adapter", f"{task}={switched / 'routed' / 'adapters' / task}")]


def test_a_router_for_adapters_that_exist_routes_as_the_run_did(switched: Path, tmp_path: Path) -> None:
    out, scored = tmp_path / "routed", tmp_path / "eval.json"
    assert main(["route", "train", str(switched / "config.yaml"), *adapters(switched), "--out", str(out)]) == 0
    assert main(["route", "eval", str(out), "--out", str(scored)]) == 0
    found, own = read_json(scored), read_json(switched / "metrics.json")
    for name in ("routing_accuracy", "oracle_gap", "ece", "confusion", "flops_per_request"):
        assert found[name] == own["routing"][name]
    assert list(found["scores"].values()) == pytest.approx(own["score_matrix"][-1])
    assert found["average"] == pytest.approx(np.mean(own["score_matrix"][-1]))
    assert found["oracle_gap"] == pytest.approx(found["oracle_average"] - found["average"])
    assert found["ms_per_request"] > 0 and found["ms_per_32_tokens"] > 0
    assert found["abstention_auroc"] is None  # every task of the data is known, and no file was given


def test_tasks_without_an_adapter_are_outside(switched: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "routed"
    command = ["route", "train", str(switched / "config.yaml"), "--out", str(out), "--routing.abstain", "0.1"]
    assert main([*command, *adapters(switched, TASKS[1:])]) == 0
    capsys.readouterr()
    assert main(["route", "eval", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["scores"]) == set(TASKS[1:]) and found["abstention_auroc"] > 0.9  # the others have no pictures
    file = tmp_path / "foreign.jsonl.gz"
    rows = [{"id": f"f{i}", "instruction": f"zzz {i} qqq", "response": "x"} for i in range(4)]
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert main(["route", "eval", str(out), "--outside", str(file)]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["abstention_auroc"] <= 1


def test_arrow_is_made_from_the_adapters_alone(switched: Path, tmp_path: Path) -> None:
    out, scored = tmp_path / "routed", tmp_path / "eval.json"
    command = ["route", "train", str(switched / "config.yaml"), *adapters(switched), "--routing.router", "arrow"]
    assert main([*command, "--out", str(out)]) == 0
    assert main(["route", "eval", str(out), "--out", str(scored)]) == 0
    assert read_json(out / "router" / "router.json")["kind"] == "arrow"
    found, own = read_json(scored), read_json(switched / "metrics.json")["routing"]
    assert found["flops_per_request"] > 0 and found["oracle_average"] == pytest.approx(own_oracle(switched))
    assert found["confusion"] != own["confusion"]


def own_oracle(switched: Path) -> float:
    metrics = read_json(switched / "metrics.json")
    return float(np.mean(metrics["score_matrix"][-1]) + metrics["routing"]["oracle_gap"])


def test_everything_a_run_leaves_serves(switched: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["route", "serve-check", str(switched / "routed")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [[task, "ok"] for task in sorted(TASKS)]
    assert lines[3].startswith("3 of 3 adapters serve")


def test_what_would_not_serve_is_named(switched: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A rank above the server's, and a scaling that plain readers of ``lora_alpha / r`` would miss."""
    assert main(["route", "serve-check", str(switched / "routed"), "--max-rank", "2"]) == 1
    assert capsys.readouterr().out.count("rank 4") == 3
    patterned = tmp_path / "patterned"
    shutil.copytree(switched / "routed" / "adapters" / TASKS[0], patterned)
    settings = read_json(patterned / "adapter_config.json")
    settings["alpha_pattern"] = {settings["target_modules"][0]: 99}
    write_json(patterned / "adapter_config.json", settings)
    out = tmp_path / "routed"
    words = [*adapters(switched, TASKS[1:]), "--adapter", f"{TASKS[0]}={patterned}", "--out", str(out)]
    assert main(["route", "train", str(switched / "config.yaml"), *words]) == 0
    assert main(["route", "serve-check", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "alpha_pattern" in printed and "2 of 3 adapters serve" in printed


def test_logits_that_differ_from_peft_are_found(
    switched: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adaptinf.routing import adapters as pool

    loaded = pool.load_factors

    def twice(lm, directory):
        found = loaded(lm, directory)
        for one in found.factors.values():
            one.b.mul_(2)
        return found

    monkeypatch.setattr(pool, "load_factors", twice)
    assert main(["route", "serve-check", str(switched / "routed")]) == 1
    assert "otherwise than plain peft" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter", "shapes_vqa"], "is not TASK=DIR"),
        (["--adapter", "shapes_vqq=x"], "is no task of the data"),
        (["--adapter", "shapes_vqa=nowhere"], "is no readable adapter"),
        (["--adapter", "shapes_vqa=x", "--adapter", "shapes_vqa=y"], "is given twice"),
    ],
)
def test_impossible_adapters_are_explained(
    switched: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert main(["route", "train", str(switched / "config.yaml"), *words, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_a_directory_that_is_no_routed_model_is_refused(
    switched: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for action in ("eval", "serve-check"):
        assert main(["route", action, str(tmp_path)]) == 2
        assert "is incomplete" in capsys.readouterr().err
    out = tmp_path / "routed"
    words = ["route", "train", str(switched / "config.yaml"), *adapters(switched, TASKS[1:2]), "--out", str(out)]
    assert main(words) == 0
    assert main(words) == 2
    assert "a routed model is there" in capsys.readouterr().err


def test_another_base_is_refused(switched: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["route", "eval", str(switched / "routed"), "--model.pretrain.steps", "2"]
    assert main(words) == 2
    assert "learned from another encoder" in capsys.readouterr().err
