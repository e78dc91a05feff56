"""Every import in the tree, also those inside functions, points down the ranks of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def ranks(repository: Path) -> dict[str, int]:
    """``{"adaptinf.cli": 9, ...}``, read from the table that people read."""
    table = {}
    for line in (repository / "docs" / "architecture.md").read_text().splitlines():
        row = re.match(r"\| (\d+) \| (.+) \|$", line)
        if row:
            table.update(dict.fromkeys(re.findall(r"`(adaptinf[\w.]*)`", row[2].split("never")[0]), int(row[1])))
    assert table["adaptinf.cli"] == 9
    assert table["adaptinf_kernels"] == 0
    return table


def package_of(module: str) -> str:
    """``adaptinf.data.sample`` -> ``adaptinf.data``."""
    return "adaptinf_kernels" if module.startswith("adaptinf_kernels") else ".".join(module.split(".")[:2])


def imports(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of every import of our own packages, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from adaptinf import selection` names a package, `from adaptinf.errors import X` a name inside one
            names = [f"{origin}.{alias.name}" for alias in node.names] if origin == "adaptinf" else [origin]
        else:
            continue
        yield from ((node.lineno, name) for name in names if re.match(r"adaptinf(_kernels)?(\.|$)", name))


def violations(source: str, module: str, ranks: dict[str, int], *, is_package: bool = False) -> list[str]:
    own = package_of(module)
    if module in ("adaptinf", "adaptinf.__main__"):
        return []  # above everything: they only re-export
    if own not in ranks:
        return [f"{module} has no rank in docs/architecture.md"]
    found = []
    for line, name in imports(ast.parse(source), module, is_package=is_package):
        other = package_of(name)
        if other == own or name == "adaptinf.__version__":
            continue
        # names that adaptinf/__init__.py re-exports may come from anywhere, so only the top may use them
        rank_of_other = ranks.get(other, max(ranks.values()) - 1)
        if rank_of_other >= ranks[own]:
            found.append(f"{module}:{line} (rank {ranks[own]}) imports {name} (rank {rank_of_other})")
    return found


def sources(repository: Path) -> list[tuple[Path, str]]:
    roots = ((repository, "adaptinf"), (repository / "kernels", "adaptinf_kernels"))
    return [
        (file, ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
        for root, name in roots
        for file in sorted((root / name).rglob("*.py"))
    ]


def test_no_arrow_points_up(repository: Path, ranks: dict[str, int]) -> None:
    files = sources(repository)
    assert len(files) > 20
    found = [
        text
        for file, module in files
        for text in violations(file.read_text(), module, ranks, is_package=file.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("adaptinf.data.sample", "from adaptinf.models import load_model"),
        ("adaptinf.data.sample", "def f():\n    import adaptinf.models"),
        ("adaptinf.data.sample", "from ..models import load_model"),
        ("adaptinf.data.sample", "from adaptinf import models"),
        ("adaptinf.data.sample", "from adaptinf.store import create"),
        ("adaptinf.models.presets", "from adaptinf import extract"),
        ("adaptinf.newcomer.file", "import json"),
        ("adaptinf.config", "from adaptinf.errors import ConfigError\nfrom adaptinf.data import Sample"),
        ("adaptinf_kernels.kmeans.api", "def f():\n    from adaptinf.errors import AdaptinfError"),
        ("adaptinf_kernels.kmeans.api", "import adaptinf"),
    ],
)
def test_each_kind_of_upward_arrow_is_seen(module: str, source: str, ranks: dict[str, int]) -> None:
    assert violations(source, module, {**ranks})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("adaptinf.tuning.loop", "from adaptinf.selection import prune\nimport adaptinf_kernels"),
        ("adaptinf.data.sample", "from .readers import read"),
        ("adaptinf.cli.run", "import adaptinf\nfrom adaptinf import __version__"),
    ],
)
def test_downward_arrows_are_fine(module: str, source: str, ranks: dict[str, int]) -> None:
    assert not violations(source, module, ranks)
