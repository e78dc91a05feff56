"""The commands end to end on two small tasks of the demo."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from adaptinf.cli.main import main

pytestmark = pytest.mark.slow

N = 40

CONFIG = f"""
strategy: paper
data: {{source: demo, order: [digit_compare, country_language], train_limit: {N}, test_limit: 4}}
model: {{pretrain: {{steps: 2, batch_size: 8}}}}
lora: {{r: 4}}
features: {{k: 32}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def features(place: Path) -> list[str]:
    config = place / "config.yaml"
    config.write_text(CONFIG + f"cache: {place / 'cache'}\n")
    assert main(["features", str(config), "--out", str(place / "features")]) == 0
    return [str(place / "features" / name) for name in ("digit_compare", "country_language")]


def ids(file: Path) -> list[str]:
    return pq.read_table(file)["id"].to_pylist()


def test_features_are_written_once(features: list[str], place: Path) -> None:
    before = {file: file.stat().st_mtime_ns for folder in features for file in Path(folder).iterdir()}
    assert {file.name for file in before} >= {"features.safetensors", "scores.parquet", "_SUCCESS"}
    assert main(["features", str(place / "config.yaml"), "--out", str(place / "features")]) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_other_settings_are_refused(features: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["features", str(place / "config.yaml"), "--out", str(place / "features"), "--features.k", "64"])
    assert code == 2
    assert "was made from other inputs" in capsys.readouterr().err


def test_a_baseline_has_no_features(place: Path, features: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["features", str(place / "config.yaml"), "--out", str(place / "none"), "--strategy", "random_replay"]
    assert main(words) == 2
    assert "reads no features" in capsys.readouterr().err


def test_cluster(features: list[str], place: Path) -> None:
    file = place / "out" / "clusters.parquet"
    assert main(["cluster", *features, "--selection.n_clusters", "3", "--out", str(file)]) == 0
    table = pq.read_table(file)
    assert set(table["task"].to_pylist()) == {"digit_compare", "country_language"}
    assert set(table["cluster"].to_pylist()) == {0, 1, 2}


def test_cluster_by_the_elbow(features: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / "out" / "elbow.parquet"
    options = ["--selection.n_clusters", "auto", "--selection.backend", "faiss"]
    assert main(["cluster", *features, *options, "--out", str(file)]) == 0
    said = capsys.readouterr().out
    assert "5 clusters: inertia " in said
    chosen = int(re.findall(r"(\d+) clusters: inertia [0-9.]+, the elbow\n", said)[0])
    assert len(set(pq.read_table(file)["cluster"].to_pylist())) == chosen


def test_select_and_prune(features: list[str], place: Path) -> None:
    decisions, pool = place / "decisions.parquet", place / "pool.parquet"
    settings = ["--budget", "10", "--selection.n_clusters", "3"]
    assert main(["select", *settings, "--out", str(decisions), *features]) == 0
    table = pq.read_table(decisions)
    assert sum(table["selected"].to_pylist()) == 10
    assert main(["prune", str(decisions), *features, "--pruning.pool_budget", "0.5", "--out", str(pool)]) == 0
    kept = pq.read_table(pool)
    assert kept["id"].to_pylist() == table["id"].to_pylist()
    assert sum(kept["kept"].to_pylist()) == round(len(table) / 2)


def test_prune_wants_the_features_of_the_decisions(
    features: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decisions = place / "one.parquet"
    assert main(["select", features[0], "--selection.n_clusters", "3", "--out", str(decisions)]) == 0
    assert main(["prune", str(decisions), features[1], "--pruning.pool_budget", "5"]) == 2
    assert "does not list the samples of the features" in capsys.readouterr().err


def test_run_and_report(features: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--training.steps", "1", "--selection.n_clusters", "2", "--data.order", "digit_compare"]
    first, second = place / "runs" / "paper", place / "runs" / "random"
    assert main(["run", str(place / "config.yaml"), "--out", str(first), *short]) == 0
    assert (first / "metrics.json").exists()
    assert "<html" in (first / "report.html").read_text()
    assert "Average accuracy" in capsys.readouterr().out
    words = ["run", str(place / "config.yaml"), "--out", str(second), "--strategy", "random_replay", *short]
    assert main(words) == 0
    (first / "report.html").unlink()
    assert main(["report", str(first)]) == 0
    assert (first / "report.html").exists()
    assert main(["report", str(first), str(second)]) == 0
    assert "random_replay" in (place / "runs" / "comparison.html").read_text()
    assert "comparison.html" in capsys.readouterr().out
