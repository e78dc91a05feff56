"""What the tree promises: licence, types, commands in the README that exist, nothing tied to one machine."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import adaptinf
from adaptinf.cli.main import COMMANDS, parse

MACHINE_PATH = re.compile(r"(?<![\w.~$-])/(?:work|home|root|tmp|Users|mnt|opt|media|scratch|workspace)/[\w.-]+")


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    files = [repository / name for name in listed if name and (repository / name).is_file()]
    if not files:
        pytest.skip("not a git checkout")
    return files


def texts(files: list[Path]) -> dict[Path, str]:
    """The text files among them."""
    contents = {file: file.read_bytes() for file in files}
    return {file: content.decode() for file, content in contents.items() if b"\0" not in content}


def test_no_path_of_a_machine(tracked: list[Path]) -> None:
    found = [f"{file}: {hit}" for file, text in texts(tracked).items() for hit in MACHINE_PATH.findall(text)]
    assert not found, "\n".join(found)


def test_the_pattern_sees_a_machine_path() -> None:
    assert MACHINE_PATH.search("root = '" + "/ho" + "me/someone/data'")
    assert MACHINE_PATH.search("--out " + "/t" + "mp/run.json")
    assert not MACHINE_PATH.search("https://example.org/home/page and ~/work/x")


def test_no_pickle_and_no_remote_code(tracked: list[Path]) -> None:
    forbidden = re.compile(
        r"import pickle|trust_remote_code\s*=\s*True|weights_only\s*=\s*False|allow_pickle\s*=\s*True"
    )
    code = texts([file for file in tracked if file.suffix == ".py" and file != Path(__file__)])
    assert not [str(file) for file, text in code.items() if forbidden.search(text)]


def test_no_large_or_binary_build_output(tracked: list[Path]) -> None:
    assert not [str(f) for f in tracked if f.suffix in {".so", ".whl", ".o", ".pyc"} or f.stat().st_size > 1 << 20]


def test_types_and_licence_are_shipped(repository: Path) -> None:
    assert (repository / "adaptinf" / "py.typed").exists()
    assert (repository / "kernels" / "adaptinf_kernels" / "py.typed").exists()
    licence = (repository / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence


def test_every_data_file_of_a_package_is_shipped(repository: Path, tracked: list[Path]) -> None:
    project = read_toml(repository / "pyproject.toml")
    patterns = project["tool"]["setuptools"]["package-data"]
    for name, root in (
        ("adaptinf", repository / "adaptinf"),
        ("adaptinf_kernels", repository / "kernels/adaptinf_kernels"),
    ):
        data = {file for file in tracked if file.is_relative_to(root) and file.suffix != ".py"}
        shipped = {file for pattern in patterns[name] for file in root.glob(pattern)}
        assert data <= shipped, data - shipped


def read_toml(file: Path) -> dict[str, Any]:
    """Python has a TOML reader from 3.11 on; setuptools carries one."""
    try:
        import tomllib
    except ModuleNotFoundError:
        tomllib = pytest.importorskip("setuptools.compat.py310").tomllib
    return tomllib.loads(file.read_text())


def test_the_changelog_knows_this_version(repository: Path) -> None:
    assert f"## {adaptinf.__version__}" in (repository / "CHANGELOG.md").read_text()


def documented_commands(repository: Path) -> list[str]:
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_tests_that_documents_name_exist(repository: Path) -> None:
    named = {
        (match[1], match[2])
        for document in (repository / "docs").glob("*.md")
        for match in re.finditer(r"`(tests/[\w/]+\.py)::(\w+)`", document.read_text())
    }
    assert len(named) > 20
    gone = [f"{file}::{name}" for file, name in sorted(named) if f"def {name}(" not in (repository / file).read_text()]
    assert not gone


def test_make_targets_of_the_readme_exist(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (repository / "Makefile").read_text(), re.MULTILINE))
    used = [line.split()[1] for line in documented_commands(repository) if line.startswith("make ")]
    assert {"demo", "test"} <= set(used) <= targets


def test_adaptinf_commands_of_the_readme_parse(repository: Path) -> None:
    lines = [line for line in documented_commands(repository) if line.startswith("adaptinf ")]
    assert lines
    for line in lines:
        parse(shlex.split(line)[1:])
    shown = {shlex.split(line)[1] for line in lines}
    assert shown == set(COMMANDS)


def test_files_the_readme_links_to_exist(repository: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (repository / "README.md").read_text())
    assert links
    assert not [link for link in links if not (repository / link).exists()]


def test_python_examples_of_the_readme_compile(repository: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_ci_runs_make_test(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text()


def test_names_of_tests_are_the_same_in_every_process(request: pytest.FixtureRequest) -> None:
    """An object's address in a parameter's name keeps pytest-xdist from running anything."""
    assert not [item.nodeid for item in request.session.items if re.search(r" at 0x[0-9a-f]+", item.nodeid)]
