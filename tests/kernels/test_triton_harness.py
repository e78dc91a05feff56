"""The process that interprets kernels reports what happened there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

TESTS = """
import os
import pytest

@pytest.fixture
def mode():
    return os.environ["TRITON_INTERPRET"]

def test_interprets(mode):
    assert mode == "1"

@pytest.mark.parametrize("number", [1, 2])
def test_number(number):
    assert number == 1, "two is no one"

@pytest.mark.skipif(True, reason="known beforehand")
def test_marked():
    raise AssertionError

def test_skips():
    pytest.skip("found out there")

@pytest.mark.xfail
def test_expected_to_fail():
    raise AssertionError

def test_crashes():
    if "crash" in os.environ:
        os.abort()
"""


def run(repository: Path, folder: Path, *arguments: str, **environment: str) -> str:
    tests = folder / "interpreted"
    tests.mkdir()
    shutil.copy(repository / "tests/kernels/triton/conftest.py", tests)
    (tests / "test_it.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(repository), **environment},
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_each_test_is_reported(repository: Path, tmp_path: Path) -> None:
    output = run(repository, tmp_path)
    assert "1 failed, 3 passed, 2 skipped, 1 xfailed" in output
    assert "two is no one" in output
    assert "known beforehand" in output
    assert "found out there" in output


def test_a_choice_of_tests_runs_alone(repository: Path, tmp_path: Path) -> None:
    assert "1 passed, 6 deselected" in run(repository, tmp_path, "-k", "number and 1", crash="1")


def test_a_crash_fails_the_file(repository: Path, tmp_path: Path) -> None:
    output = run(repository, tmp_path, crash="1")
    assert "ended with -6" in output
    assert "5 failed, 1 skipped, 1 xfailed" in output
