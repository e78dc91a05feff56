"""Parquet files and datasets: pictures in every column form, and damage."""

from __future__ import annotations

import io

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adaptinf.data import load_image, read_hf, read_parquet
from adaptinf.errors import DataError

from .reading import PICTURES, PNGS, read

COLUMNS_OF_PICTURES = {
    "bytes": (pa.binary(), PNGS[0]),
    "struct with bytes": (
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        {"bytes": PNGS[0], "path": "gone.png"},
    ),
    "struct with path": (pa.struct({"bytes": pa.binary(), "path": pa.string()}), {"bytes": None, "path": "0.png"}),
    "path": (pa.string(), "0.png"),
    "list of bytes": (pa.list_(pa.binary()), [PNGS[0]]),
    "list of paths": (pa.list_(pa.string()), ["0.png"]),
    "list of structs": (
        pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        [{"bytes": PNGS[0], "path": None}],
    ),
}


@pytest.mark.parametrize("form", COLUMNS_OF_PICTURES)
@pytest.mark.parametrize("column", ["image", "images"])
def test_parquet_pictures(root, form, column):
    kind, value = COLUMNS_OF_PICTURES[form]
    table = pa.table(
        {
            "id": ["a", "b"],
            "instruction": ["what?", "and?"],
            "response": ["x", "y"],
            column: pa.array([value, None], kind),
            "meta": [{"n": 1}, {"n": 2}],
            "vector": [[0.0], [1.0]],
        }
    )
    pq.write_table(table, root / "x.parquet")
    samples, bad = read(read_parquet, root / "x.parquet", root)
    assert not bad
    assert [len(sample.images) for sample in samples] == [1, 0]
    np.testing.assert_array_equal(np.asarray(load_image(samples[0].images[0])), PICTURES[0])
    assert [sample.meta["n"] for sample in samples] == [1, 2]


def test_parquet_mapping_rows_and_bad_rows(root):
    n = 600
    table = pa.table(
        {"q": [f"q{i}" for i in range(n)], "a": [None if i == 300 else "x" for i in range(n)], "group": ["g"] * n}
    )
    pq.write_table(table, root / "x.parquet", row_group_size=100)
    samples, bad = read(read_parquet, root / "x.parquet", root, columns={"instruction": "q", "response": "a"})
    assert len(samples) == n - 1
    assert len({sample.id for sample in samples}) == n - 1
    assert [(entry.line, entry.reason) for entry in bad] == [(301, "response is missing")]


def test_parquet_damage_is_an_error(root):
    path = root / "x.parquet"
    pq.write_table(pa.table({"instruction": ["a" * 1000] * 500, "response": [str(i) for i in range(500)]}), path)
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-20], whole[:30] + b"\xff" * 40 + whole[70:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="Parquet"):
            read(read_parquet, path, root)
    with pytest.raises(DataError, match="Parquet"):
        read(read_parquet, root / "absent.parquet", root)


@pytest.mark.parametrize("saved", [False, True])
def test_hf_dataset(root, saved):
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "meta": {"n": datasets.Value("int64")},
        }
    )
    rows = {
        "question": ["both?", "none?", "bad?"],
        "answer": ["yes", "no", ""],
        "images": [[PIL.Image.fromarray(PICTURES[0]), PIL.Image.fromarray(PICTURES[1])], [], []],
        "meta": [{"n": 0}, {"n": 1}, {"n": 2}],
    }
    source = datasets.Dataset.from_dict(rows, features=features)
    if saved:
        source.save_to_disk(root / "saved")
        source = root / "saved"
    samples, bad = read(read_hf, source, root, columns={"instruction": "question", "response": "answer"}, skill="s")
    assert [sample.answer for sample in samples] == ["yes", "no"]
    assert [np.asarray(load_image(image))[0, 0, 0] for image in samples[0].images] == [10, 20]
    assert samples[0].skill == "s"
    assert samples[0].id
    assert [(entry.line, entry.reason) for entry in bad] == [(3, "the answer is empty")]


@pytest.mark.parametrize("many", [False, True])
def test_hf_pictures_keep_their_encoded_bytes(root, many):
    buffer = io.BytesIO()
    PIL.Image.fromarray(PICTURES[2]).save(buffer, "JPEG")
    cell = {"bytes": buffer.getvalue(), "path": None}
    texts = {name: datasets.Value("string") for name in ("instruction", "response")}
    features = datasets.Features({**texts, "images": datasets.List(datasets.Image()) if many else datasets.Image()})
    rows = {"instruction": ["?"], "response": ["x"], "images": [[cell] if many else cell]}
    (sample,), _ = read(read_hf, datasets.Dataset.from_dict(rows, features=features), root)
    assert sample.images[0].data == buffer.getvalue()


def test_hf_paths_and_pil_objects(root):
    plain = datasets.Dataset.from_dict({"instruction": ["?"], "response": ["x"], "image": ["0.png"]})
    (sample,), _ = read(read_hf, plain, root)
    np.testing.assert_array_equal(np.asarray(load_image(sample.images[0])), PICTURES[0])
    made = plain.with_transform(
        lambda batch: {**batch, "image": [PIL.Image.fromarray(PICTURES[2])] * len(batch["image"])}
    )
    (sample,), _ = read(read_hf, made, root)
    np.testing.assert_array_equal(np.asarray(load_image(sample.images[0])), PICTURES[2])


def test_hf_folders_that_cannot_be_used(root):
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"instruction": ["?"], "response": ["x"]})})
    splits.save_to_disk(root / "dict")
    with pytest.raises(DataError, match="splits train"):
        read(read_hf, root / "dict", root)
    (root / "junk").mkdir()
    (root / "junk" / "state.json").write_text("{}")
    for name in ("junk", "absent"):
        with pytest.raises(DataError, match="cannot be loaded"):
            read(read_hf, root / name, root)


def test_hf_damage_is_an_error(root):
    text = datasets.Dataset.from_dict({"instruction": ["a" * 50] * 300, "response": [str(i) for i in range(300)]})
    text.save_to_disk(root / "saved")
    (file,) = (root / "saved").glob("*.arrow")
    whole = file.read_bytes()
    offsets = whole.index(b"aaaa") - 256
    for content in (
        b"",
        whole[: len(whole) // 2],
        b"\xff" * len(whole),
        whole[:offsets] + b"\xf0" * 64 + whole[offsets + 64 :],
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match="cannot be loaded"):
            read(read_hf, root / "saved", root)
