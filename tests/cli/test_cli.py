"""The command line: parsing, failures without tracebacks, and that each command hands on what it was given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import adaptinf
from adaptinf import report
from adaptinf.cli.main import COMMANDS, main, parse
from adaptinf.config import RunConfig, describe
from adaptinf.errors import ConfigError, EmptyTaskError


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text("seed: 5\ntraining: {steps: 2}\n")
    return file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunConfig, Any]]:
    """Records the calls of ``adaptinf.run`` instead of running."""
    recorded: list[tuple[RunConfig, Any]] = []

    def record(config: RunConfig, *, out: Any = None) -> Path:
        recorded.append((config, out))
        return Path(out or "nowhere")

    monkeypatch.setattr(adaptinf, "run", record)
    monkeypatch.setattr(report, "format_table", lambda runs: f"table of {len(runs)}")
    monkeypatch.setattr(report, "build_comparison", lambda runs, out: out)
    return recorded


def test_run_hands_on_file_overrides_and_directory(
    config_file: Path, calls: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = main(["run", str(config_file), "--training.batch-size", "3", "--seed=9", "--out", str(tmp_path / "o")])
    assert code == 0
    [(config, out)] = calls
    assert (config.seed, config.training.steps, config.training.batch_size) == (9, 2, 3)
    assert out == tmp_path / "o"
    assert "table of 1" in capsys.readouterr().out


def test_settings_before_the_positional_argument(config_file: Path, calls: list[Any]) -> None:
    """argparse alone would take 3 for the configuration file."""
    assert main(["run", "--seed", "3", str(config_file)]) == 0
    assert calls[0][0].seed == 3


def test_demo_runs_both_strategies_at_an_equal_budget(calls: list[Any], tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--training.steps", "1"]) == 0
    assert [(config.strategy, config.budget, config.data.source) for config, _ in calls] == [
        ("random_replay", 0.25, "demo"),
        ("paper", 0.25, "demo"),
    ]
    assert [out for _, out in calls] == [tmp_path / "random_replay", tmp_path / "paper"]
    assert all(config.training.steps == 1 for config, _ in calls)
    assert [config.pruning.pool_budget for config, _ in calls] == [None, 0.8]


def test_demo_on_a_bundle(calls: list[Any], tmp_path: Path) -> None:
    main(["demo", "--data", str(tmp_path), "--strategies", "sequential"])
    [(config, _)] = calls
    assert (config.data.source, config.data.root, config.strategy) == ("bundle", str(tmp_path), "sequential")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "CONFIG", "--training.stps", "1"],
            "training.stps: unknown key\n  remedy: did you mean 'training.steps'?",
        ),
        (["run", "CONFIG", "--seed"], "--seed: has no value"),
        (["run", "absent.yaml"], "absent.yaml: cannot be read"),
        (["cluster", "absent", "--training.steps", "1"], "--training.steps: has no effect on this command"),
        (["cluster", "absent"], "absent: is no features directory"),
        (["select", "absent", "--budget", "0.5"], "absent: is no features directory"),
        (["prune", "d.parquet", "absent"], "pruning.pool_budget: has no value"),
        (["report", "absent"], "absent"),
    ],
)
def test_failures_are_explained_without_a_traceback(
    words: list[str], message: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(config_file) if word == "CONFIG" else word for word in words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert said.startswith("adaptinf: ")


def test_any_error_of_ours_ends_with_code_2(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Path:
        raise EmptyTaskError("has no sample", item="vqa", remedy="leave it out")

    monkeypatch.setattr(adaptinf, "run", fail)
    assert main(["run", str(config_file)]) == 2
    assert capsys.readouterr().err == "adaptinf: EmptyTaskError: vqa: has no sample\n  remedy: leave it out\n"


def test_other_errors_keep_their_traceback(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Path:
        raise ZeroDivisionError

    monkeypatch.setattr(adaptinf, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["run", str(config_file)])


def test_interrupting_says_how_to_continue(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("SIGINT did not arrive")

    monkeypatch.setattr(adaptinf, "run", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
    try:
        assert main(["run", str(config_file)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "run again with the same directory to continue" in capsys.readouterr().err


def test_help_of_run_shows_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["run", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for key in describe():
        assert f"  {key.name} (" in shown
        assert key.help in shown
    assert "training.learning_rate (float) = 0.0002" in shown
    assert "selection.scorers (list of str) = [perplexity, el2n, entropy, image_grounding]" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse([name, "--help"])
    assert stopped.value.code == 0
    assert f"adaptinf {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["no-such-command"], ["doctor", "--seed", "1"], ["report"]])
def test_wrong_usage_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(words)
    assert stopped.value.code == 2


def test_settings_of_a_command_without_any_stay_arguments() -> None:
    with pytest.raises(ConfigError, match="has no effect"):
        from adaptinf.cli.settings import read_settings

        read_settings(parse(["cluster", "d", "--lora.r", "4"]))


def test_a_closed_pipe_is_no_crash(repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository), "PYTHONUNBUFFERED": "1"}
    command = f"{sys.executable} -m adaptinf version | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 141
    assert done.stderr == ""


def test_version_as_a_module(repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{repository}{os.pathsep}{repository / 'kernels'}"}
    done = subprocess.run(
        [sys.executable, "-m", "adaptinf", "version"], env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == f"adaptinf {adaptinf.__version__}"
    assert any(line.startswith("torch 2") for line in lines)


def test_help_of_demo_shows_what_the_demo_starts_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["demo", "--help"])
    shown = capsys.readouterr().out
    assert "training.epochs (float) = 4" in shown
    assert "data.train_limit (int | null) = 800" in shown
    assert "data.tasks[].format (jsonl | llava | parquet | hf) = jsonl" in shown


def test_the_demos_pool_budget_is_for_strategies_that_prune(calls: list[Any], tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--pruning.pool_budget", "0.5"]) == 0
    assert [config.pruning.pool_budget for config, _ in calls] == [None, 0.5]
