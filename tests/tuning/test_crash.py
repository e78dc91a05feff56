"""Kill -9 at every durable point of a run, resume after each, and compare every byte with an uninterrupted run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptinf.config import RunConfig

PRELOAD = ["adaptinf.tuning", "adaptinf.models", "adaptinf.evaluation", "adaptinf.data", "adaptinf.selection", "peft"]


def _run(config: RunConfig, out: Path, fault: str) -> None:
    os.environ["ADAPTINF_FAULT"], os.environ["ADAPTINF_PROGRESS"] = fault, "0"
    import torch

    from adaptinf.tuning import run

    torch.set_num_threads(1)
    run(config, out)


def _exit_code(config: RunConfig, out: Path, fault: str = "") -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_run, args=(config, out, fault))
    process.start()
    process.join(300)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def _content(run: Path) -> dict[str, bytes]:
    """Every byte of a run, times aside."""
    content = {
        str(file.relative_to(run)): file.read_bytes()
        for file in sorted(run.rglob("*"))
        if file.is_file() and file.name not in ("timing.json", "metrics.json")
    }
    metrics = json.loads((run / "metrics.json").read_text())
    metrics.pop("seconds"), metrics.pop("cpu_seconds")
    content["metrics.json"] = json.dumps(metrics, sort_keys=True).encode()
    return content


@pytest.mark.parametrize("carry", ["continue", "merge"])
def test_killed_at_every_point_ends_with_the_same_bytes(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, carry: str
) -> None:
    settings = {
        "data": {"order": ["shapes_vqa", "country_language"], "train_limit": 16, "test_limit": 4},
        "training": {"carry_lora": carry, "steps": 2},
        "pruning": {"pool_budget": 0.7},
    }
    config = tiny_config(**settings)
    log = tmp_path / "points"
    assert _exit_code(config, tmp_path / "whole", f"log:{log}") == 0
    points = log.read_text().splitlines()
    stages = {point for point in points if point.endswith(":committed") and "/" in point}
    assert len(stages) == 1 + 2 * 5, stages  # the base's evaluation, and five arrows for each of two arrivals
    expected = _content(tmp_path / "whole")
    killed = tmp_path / "killed"
    for point in dict.fromkeys(points):
        assert _exit_code(config, killed, f"kill:{point}") == -signal.SIGKILL, point
    assert _exit_code(config, killed) == 0
    found = _content(killed)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_finished_run_is_not_run_again(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny_config(
        strategy="random_replay", data={"order": ["country_language"], "train_limit": 16, "test_limit": 4}
    )
    assert _exit_code(config, tmp_path / "run") == 0
    times = {f: f.stat().st_mtime_ns for f in (tmp_path / "run" / "steps").rglob("*") if f.is_file()}
    assert _exit_code(config, tmp_path / "run", "kill:01_country_language/training:started") == 0
    assert times == {f: f.stat().st_mtime_ns for f in (tmp_path / "run" / "steps").rglob("*") if f.is_file()}
