"""``adaptinf dedup``: from files of embeddings to one decision a row."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from adaptinf_kernels import semdedup
from adaptinf_kernels.semdedup.api import SemDedupResult
from safetensors.torch import save_file

from adaptinf.cli.main import main
from adaptinf.data import read_embeddings
from adaptinf.errors import ClusterCountError, ConfigError, DataError, NonFiniteError
from adaptinf.selection import DedupResult, dedup


@pytest.fixture
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(40, 24))
    return (groups[rng.integers(0, 40, 600)] + 0.05 * rng.normal(size=(600, 24))).astype(np.float16)


def write_all(folder: Path, rows: np.ndarray) -> list[Path]:
    """The same rows, a third in each kind of file."""
    first, second, third = np.split(rows, 3)
    np.save(folder / "a.npy", first)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(second.reshape(-1)), rows.shape[1])
    ids = pa.array([f"row {i}" for i in range(len(second))])
    pq.write_table(pa.table({"id": ids, "embedding": lists}), folder / "b.parquet", row_group_size=64)
    safetensors.numpy.save_file({"x": third}, folder / "c.safetensors")
    return [folder / "a.npy", folder / "b.parquet", folder / "c.safetensors"]


def test_files_are_read_as_they_are(tmp_path: Path, rows: np.ndarray) -> None:
    found = read_embeddings(write_all(tmp_path, rows))
    assert found.rows.dtype == torch.float16
    np.testing.assert_array_equal(found.rows, rows)
    assert [found.ids[i].as_py() for i in (0, 200, 400)] == ["a.npy:0", "row 0", "c.safetensors:0"]


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_one_file_is_mapped(tmp_path: Path, rows: np.ndarray, kind: str) -> None:
    """The matrix lies in the file's own pages."""
    path = tmp_path / f"rows.{kind}"
    if kind == "npy":
        np.save(path, rows)
    else:
        safetensors.numpy.save_file({"x": rows}, path)
    found = read_embeddings([path]).rows
    np.testing.assert_array_equal(found, rows)
    mappings = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path.name)]
    spans = [[int(end, 16) for end in mapping[0].split("-")] for mapping in mappings]
    assert any(start <= found.data_ptr() < end for start, end in spans)


def test_bfloat16_stays_so(tmp_path: Path, rows: np.ndarray) -> None:
    """NumPy has no such numbers; the decisions are those of the same numbers in float32."""
    x = torch.from_numpy(rows).bfloat16()
    save_file({"x": x}, tmp_path / "x.safetensors")
    found = read_embeddings([tmp_path / "x.safetensors"]).rows
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, x)
    same(dedup(found, 0.05, clusters=1), dedup(x.float(), 0.05, clusters=1))


def test_parquet_is_read_a_part_at_a_time(tmp_path: Path) -> None:
    """One row group of 128 MiB: beside the matrix, less than that is in memory."""
    x = np.random.default_rng(0).standard_normal((1 << 17, 256), np.float32)
    for name, count in (("little.parquet", 1 << 10), ("large.parquet", len(x))):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(x[:count].reshape(-1)), 256)
        pq.write_table(pa.table({"embedding": lists}), tmp_path / name)
    code = """
import re, sys
from pathlib import Path
from adaptinf.data import read_embeddings
def peak():  # KiB; unlike getrusage's, of this program alone
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
little, large = map(Path, sys.argv[1:])
read_embeddings([little])
before = peak()
rows = read_embeddings([large]).rows
print(peak() - before - rows.nbytes // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "little.parquet"), str(tmp_path / "large.parquet")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80 * 1024


def test_the_command_decides_every_row(tmp_path: Path, rows: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(path) for path in write_all(tmp_path, rows)]
    out, page = tmp_path / "out" / "kept.parquet", tmp_path / "page.html"
    words = ["dedup", *files, "--eps", "0.05", "--clusters", "1", "--out", str(out), "--report", str(page)]
    assert main(words) == 0
    table = pq.read_table(out)
    expected = semdedup(rows, eps=0.05)
    np.testing.assert_array_equal(table["kept"].to_numpy(), expected.kept)
    np.testing.assert_array_equal(table["max_similarity"].to_numpy(), expected.max_similarity)
    ids = table["id"].to_pylist()
    pointed = [None if i < 0 else ids[i] for i in expected.duplicate_of]
    assert table["duplicate_of"].to_pylist() == pointed
    assert f"{expected.kept.sum()} of 600 rows kept" in capsys.readouterr().out
    html = page.read_text()
    assert re.search(r"<dt>removed</dt><dd><bdi>" + f"{(~expected.kept).sum()}<", html)
    assert not re.search(r"(src|href)=", html)  # nothing is loaded


@pytest.mark.parametrize("keep", ["greedy", "reference", "components"])
def test_clusters_batches_and_rank(rows: np.ndarray, keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of rows change nothing, and inside its clusters it is semdedup's result by distance to the centroid."""
    module = importlib.import_module("adaptinf.selection.dedup")  # the package has a function of that name

    whole = dedup(rows, 0.05, clusters=12, keep=keep, rank="hard")
    direct = semdedup(rows, whole.cluster, eps=0.05, keep=keep)
    assert len(np.unique(whole.cluster)) == 12
    assert (whole.cluster[whole.duplicate_of[~whole.kept]] == whole.cluster[~whole.kept]).all()
    given = dedup(rows, 0.05, clusters=12, keep=keep)
    np.testing.assert_array_equal(given.kept, direct.kept)
    np.testing.assert_array_equal(given.duplicate_of, direct.duplicate_of)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 90)
    pieces = dedup(rows, 0.05, clusters=12, keep=keep, rank="hard")
    for name in ("cluster", "kept", "duplicate_of", "max_similarity"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))


def test_hard_and_easy_keep_other_rows(rows: np.ndarray) -> None:
    """Of two near-duplicates the one farther from the centroid stays, or the nearer one."""
    wide = rows.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    for rank, sign in (("hard", 1), ("easy", -1)):
        found = dedup(rows, 0.05, clusters=12, rank=rank)
        centers = {c: unit[found.cluster == c].sum(0) for c in np.unique(found.cluster)}
        centers = {c: center / np.linalg.norm(center) for c, center in centers.items()}
        removed = np.flatnonzero(~found.kept)
        near = np.array([unit[i] @ centers[found.cluster[i]] for i in range(len(rows))])
        assert np.mean(sign * (near[removed] - near[found.duplicate_of[removed]]) > 0) > 0.95


def test_a_sample_fits_the_clusters(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("adaptinf.selection.dedup")  # the package has a function of that name

    monkeypatch.setattr(module, "SAMPLE", 8)
    found = dedup(rows, 0.05, clusters=10)
    assert found.cluster.max() == 9
    assert found.kept.sum() < 600


@pytest.mark.parametrize("keep", ["greedy", "reference"])
def test_a_budget(rows: np.ndarray, keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all rows or in each cluster, a share or a count: what semdedup keeps in the same clusters."""
    module = importlib.import_module("adaptinf.selection.dedup")
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 90)
    cluster = dedup(rows, 0.05, clusters=12).cluster
    sizes = np.bincount(cluster).tolist()
    for budget, per_cluster, whole in [
        (200, False, 200),
        (0.25, False, 0.25),
        (0.25, True, [0.25] * 12),
        (30, True, [min(30, size) for size in sizes]),
    ]:
        found = dedup(rows, budget=budget, per_cluster=per_cluster, clusters=12, keep=keep)
        same(found, semdedup(rows, cluster, budget=whole, keep=keep))
    assert min(sizes) < 30 < max(sizes)


@pytest.mark.parametrize(("words", "count"), [(["200"], 200), (["0.25"], 150), (["2", "--per-cluster"], 24)])
def test_the_command_keeps_a_budget(tmp_path: Path, rows: np.ndarray, words: list[str], count: int) -> None:
    np.save(tmp_path / "a.npy", rows)
    out, page = tmp_path / "kept.parquet", tmp_path / "page.html"
    line = ["dedup", str(tmp_path / "a.npy"), "--clusters", "12", "--out", str(out), "--report", str(page)]
    assert main([*line, "--budget", *words]) == 0
    assert pq.read_table(out)["kept"].to_numpy().sum() == count
    assert f"budget {words[0]}" in page.read_text()


def test_a_budget_that_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["dedup", "a.npy", "--budget", "half"])
    assert "'half' is neither a count (200) nor a share (0.5)" in capsys.readouterr().err


def same(found: DedupResult, expected: DedupResult | SemDedupResult) -> None:
    for name in ("kept", "duplicate_of", "max_similarity"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_no_rows() -> None:
    assert len(dedup(np.zeros((0, 3), np.float32), 0.1).kept) == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"eps": 3}, ConfigError),
        ({"keep": "best"}, ConfigError),
        ({"rank": "last"}, ConfigError),
        ({"clusters": 601}, ClusterCountError),
        ({"clusters": 0}, ClusterCountError),
        ({"eps": None}, ConfigError),
        ({"budget": 5}, ConfigError),
        ({"per_cluster": True}, ConfigError),
        ({"eps": None, "budget": 601}, ConfigError),
        ({"eps": None, "budget": 1.5}, ConfigError),
        ({"eps": None, "budget": -1}, ConfigError),
        ({"eps": None, "budget": float("nan")}, ConfigError),
        ({"eps": None, "budget": 5, "keep": "components"}, ConfigError),
    ],
)
def test_impossible_values(rows: np.ndarray, options: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        dedup(rows, **{"eps": 0.1, **options})


def test_a_row_that_is_not_finite_is_named(rows: np.ndarray) -> None:
    rows[317, 3] = np.nan
    with pytest.raises(NonFiniteError, match="row 317"):
        dedup(rows, 0.1)


def test_broken_files(tmp_path: Path, rows: np.ndarray) -> None:
    files = write_all(tmp_path, rows)
    np.save(tmp_path / "wide.npy", rows.astype(np.float32))
    np.save(tmp_path / "cube.npy", rows[None])
    np.save(tmp_path / "whole.npy", rows.astype(np.int64))
    (tmp_path / "torn.npy").write_bytes(files[0].read_bytes()[:50])
    (tmp_path / "torn.parquet").write_bytes(files[1].read_bytes()[:-9])
    (tmp_path / "torn.safetensors").write_bytes(files[2].read_bytes()[:30])
    (tmp_path / "words.txt").write_text("x")
    ragged = pa.array([[1.0, 2.0], [3.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"embedding": ragged, "id": ["a", "a"], "n": [1, 2]}), tmp_path / "ragged.parquet")
    uneven = pa.array([[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]], pa.list_(pa.float32()))  # two numbers a row on average
    pq.write_table(pa.table({"embedding": uneven}), tmp_path / "uneven.parquet")
    pq.write_table(pa.table({"embedding": pa.array([None, [1.0]], pa.list_(pa.float32()))}), tmp_path / "null.parquet")
    for paths, name, message in [
        ([], "embedding", "no file"),
        ([files[0], tmp_path / "wide.npy"], "embedding", "float32"),
        (["cube.npy"], "embedding", "matrix"),
        (["whole.npy"], "embedding", "int64"),
        (["torn.npy"], "embedding", "cannot be read"),
        (["torn.parquet"], "embedding", "cannot be read"),
        (["torn.safetensors"], "embedding", "cannot be read"),
        (["words.txt"], "embedding", "ending"),
        (["ragged.parquet"], "embedding", "not of 2 numbers"),
        (["uneven.parquet"], "embedding", "not of 2 numbers"),
        (["null.parquet"], "embedding", "matrix"),
        (["ragged.parquet"], "n", "int64"),
        (["ragged.parquet"], "other", "no column 'other'"),
        ([files[0], files[0]], "embedding", "one id"),
        (["absent.npy"], "embedding", "cannot be read"),
    ]:
        with pytest.raises(DataError, match=message):
            read_embeddings([tmp_path / path for path in paths], name)
