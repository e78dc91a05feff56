"""The commands of docs/tutorial-routing.md, as they stand, one after another in one folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_tutorial_runs_as_it_stands(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa", reason="the tutorial's datasets come from the extra demo")
    shutil.copytree(repository / "examples", tmp_path / "examples")
    text = (repository / "docs" / "tutorial-routing.md").read_text()
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["sh", "sh", "sh", "python", "sh"]
    printed = []
    for kind, block in blocks:
        if kind == "python":
            printed.append(_run([sys.executable, "-c", block], tmp_path))
            continue
        for line in block.splitlines():
            name, *words = shlex.split(line)
            assert name == "adaptinf"
            printed.append(_run([sys.executable, "-m", "adaptinf", *words], tmp_path))
    found = json.loads((tmp_path / "runs/switch/eval.json").read_text())
    assert found["routing_accuracy"] > 0.8 and found["oracle_gap"] < 0.1
    _, _, checked, served, _, two = printed
    assert checked.count(" ok\n") == 5
    assert len(re.findall(r"^\w+ +-> \w+ +\d\.\d\d  ", served, re.MULTILINE)) == 5
    assert set(json.loads(two)["scores"]) == {"shapes_vqa", "name_kind"} and json.loads(two)["abstention_auroc"] > 0.5


def _run(command: list[str], place: Path) -> str:
    environment = os.environ | {"ADAPTINF_CACHE": str(place / "cache"), "ADAPTINF_PROGRESS": "0"}
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
