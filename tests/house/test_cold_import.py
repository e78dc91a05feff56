"""What importing costs: each layer imports without the heavy or absent libraries above its needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORBID = """
import builtins
real = builtins.__import__
def guarded(name, *rest, **kwargs):
    if name.partition(".")[0] in {forbidden!r}:
        raise ImportError(f"{{name}} is forbidden here")
    return real(name, *rest, **kwargs)
builtins.__import__ = guarded
"""


def run_without(repository: Path, forbidden: set[str], code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), str(repository / "kernels")])}
    program = FORBID.format(forbidden=forbidden) + code
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_adaptinf_needs_no_torch(repository: Path) -> None:
    code = """
import sys, adaptinf, adaptinf.config, adaptinf.errors, adaptinf.progress
assert adaptinf.RunConfig().seed == 0 and "run" in dir(adaptinf)
print(sorted({"torch", "transformers", "numpy", "pyarrow", "PIL"} & set(sys.modules)))
"""
    assert run_without(repository, {"torch", "transformers", "numpy"}, code) == "[]"


def test_the_command_line_needs_no_torch_to_explain_itself(repository: Path) -> None:
    code = "from adaptinf.cli.main import parse; print(parse(['run', 'x.yaml', '--seed', '3']).overrides)"
    assert run_without(repository, {"torch", "transformers", "numpy"}, code) == "{'seed': '3'}"


def test_samples_need_no_torch(repository: Path) -> None:
    code = """
from adaptinf import Sample
print(Sample.from_instruction("1", "Name a colour.", "red", task="t").prompt)
"""
    assert run_without(repository, {"torch", "transformers", "datasets", "pandas"}, code) == "Name a colour."


def test_a_forbidden_import_is_noticed(repository: Path) -> None:
    with pytest.raises(AssertionError, match="json is forbidden here"):
        run_without(repository, {"json"}, "import json")


@pytest.mark.parametrize("name", ["no_such_name", "torch"])
def test_unknown_names_raise(name: str) -> None:
    import adaptinf

    with pytest.raises(AttributeError, match=name):
        getattr(adaptinf, name)


def test_every_public_name_resolves() -> None:
    import adaptinf

    for name in adaptinf.__all__:
        assert getattr(adaptinf, name) is not None, name
