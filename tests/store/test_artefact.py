"""An artefact is complete or absent, whatever kills the process that writes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from adaptinf import store
from adaptinf.errors import ArtefactError, IdentityError

WRITER = """
import sys
from pathlib import Path
from adaptinf import store
root = Path(sys.argv[1])
for name in ("first", "second"):
    path = root / "runs" / name
    if not store.is_complete(path, {"name": name}):
        with store.create(path, {"name": name}) as staging:
            (staging / "deep").mkdir()
            store.write_json(staging / "deep" / "value.json", {"name": name, "nan": float("nan")})
store.replace_file(root / "metrics.json", b"done")
"""


def _write(root: Path, fault: str) -> int:
    environment = {**os.environ, "ADAPTINF_FAULT": fault}
    return subprocess.run([sys.executable, "-c", WRITER, str(root)], env=environment, check=False).returncode


def _tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_killed_at_every_point_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    log = tmp_path / "points"
    assert _write(tmp_path / "whole", f"log:{log}") == 0
    points = log.read_text().splitlines()
    assert len(points) == len(set(points)) == 2 * 4 + 2
    expected = _tree(tmp_path / "whole")
    assert not [name for name in expected if ".partial" in name]  # the staging folder became the artefact
    for number, point in enumerate(points):
        root = tmp_path / f"killed{number}"
        root.mkdir()
        assert _write(root, f"kill:{point}") == -signal.SIGKILL
        for path in (root / "runs" / "first", root / "runs" / "second"):
            assert path.exists() == store.is_complete(path)
            if path.exists():
                store.verify(path)
        assert _write(root, "") == 0
        assert _tree(root) == expected, point


def test_nothing_is_left_when_the_writer_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), store.create(tmp_path / "a", {}) as staging:
        (staging / "half").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_its_manifest_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "value.json").write_text("{}")
    assert not store.is_complete(tmp_path / "a")
    with pytest.raises(ArtefactError, match="is incomplete"):
        store.verify(tmp_path / "a")


def test_another_identity_is_an_error_that_names_what_differs(tmp_path: Path) -> None:
    with store.create(tmp_path / "a", {"seed": 1, "model": "x"}):
        pass
    assert store.is_complete(tmp_path / "a", {"seed": 1, "model": "x"})
    with pytest.raises(IdentityError, match="differ in: seed"):
        store.is_complete(tmp_path / "a", {"seed": 2, "model": "x"})


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_verify_finds_every_damage(tmp_path: Path, damage: str) -> None:
    with store.create(tmp_path / "a", {}) as staging:
        store.write_tensors(staging / "t.safetensors", {"x": np.arange(8.0)})
        (staging / "timing.json").write_text("1")
    file = tmp_path / "a" / "t.safetensors"
    (tmp_path / "a" / "timing.json").write_text("2")  # times may differ
    store.verify(tmp_path / "a")
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtefactError, match="does not match its hash"):
        store.verify(tmp_path / "a")


def test_damaged_files_raise_an_error_that_names_them(tmp_path: Path) -> None:
    file = tmp_path / "x"
    for content in (b"", b"\xff\xfe", b"PAR1 not really", b"{" * 100):
        file.write_bytes(content)
        for read in (store.read_json, store.read_table, store.read_tensors):
            with pytest.raises(ArtefactError, match=str(file)):
                read(file)


def test_json_has_no_nan_and_stable_bytes(tmp_path: Path) -> None:
    value = {"b": np.float32(1.5), "a": [np.nan, np.inf, np.int64(3)], "c": np.array([[1.0, np.nan]])}
    store.write_json(tmp_path / "x", value)
    assert store.read_json(tmp_path / "x") == {"a": [None, None, 3], "b": 1.5, "c": [[1.0, None]]}
    assert store.digest(value) == store.digest(dict(reversed(value.items())))


def test_tables_and_tensors_round_trip_with_the_same_bytes(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "x": [1.0, float("nan")]})
    tensors = {"y": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1], "x": np.zeros((0, 4), np.float32)}
    for name in ("one", "two"):
        store.write_table(tmp_path / f"{name}.parquet", table)
        store.write_tensors(tmp_path / f"{name}.safetensors", tensors)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    loaded = store.read_tensors(tmp_path / "one.safetensors")
    for name, expected in tensors.items():
        np.testing.assert_array_equal(loaded[name], expected)
