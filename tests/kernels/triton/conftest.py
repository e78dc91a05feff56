"""Runs the tests of this folder by Triton's interpreter, on the CPU.

Triton asks for ``TRITON_INTERPRET=1`` once, when it is first imported: a process either interprets or compiles. Without
that variable the tests of a file run together in a second process that has it, and their outcomes are reported here: a
test file needs nothing special, and `pytest FILE::TEST`, `-k` and `-m` work. With it they run in place, for a debugger:
``TRITON_INTERPRET=1 pytest tests/kernels/triton/test_x.py --pdb``.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    from tests.kernels.triton_interpreter import repair

    repair()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return None if INTERPRETED else InterpretedModule.from_parent(parent, path=module_path)


class InterpretedModule(pytest.Module):
    """A test file whose tests run in a process of their own."""

    def collect(self) -> Iterator[pytest.Item]:
        for function in super().collect():
            assert isinstance(function, pytest.Function), f"{function.nodeid}: only functions are run here"
            item = InterpretedTest.from_parent(self, name=function.name)
            for mark in function.own_markers:
                item.add_marker(getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs))
            yield item

    @functools.cached_property
    def outcomes(self) -> dict[str, ET.Element]:
        """JUnit's record of each test of this file that was selected."""
        names = [item.name for item in self.session.items if item.parent is self]
        with TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            options = ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", f"--junitxml={report}", "-v"]
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    f"--rootdir={self.config.rootpath}",
                    *options,
                    *(f"{self.path}::{name}" for name in names),
                ],
                env={**os.environ, "TRITON_INTERPRET": "1"},
                cwd=self.config.rootpath,
                capture_output=True,
                text=True,
                check=False,
            )
            if report.exists():
                return {case.attrib["name"]: case for case in ET.parse(report).iter("testcase")}
        crash = ET.Element("testcase")
        ET.SubElement(crash, "error").text = f"{done.args}\nended with {done.returncode}\n{done.stdout}{done.stderr}"
        return dict.fromkeys(names, crash)


class InterpretedTest(pytest.Item):
    """One test of such a file."""

    def runtest(self) -> None:
        assert isinstance(self.parent, InterpretedModule)
        for outcome in self.parent.outcomes[self.name]:
            if outcome.tag == "skipped":
                leave = pytest.xfail if outcome.attrib["type"] == "pytest.xfail" else pytest.skip
                leave(outcome.attrib["message"])
            if outcome.tag in ("failure", "error"):
                pytest.fail(outcome.text or "", pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name
