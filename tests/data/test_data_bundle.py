"""The readers and the default stream on the bundle of real data."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adaptinf.config import DataConfig, TaskSpec
from adaptinf.data import (
    BUNDLE,
    BUNDLE_ORDER,
    ImageFolder,
    Quarantine,
    load_stream,
    read_jsonl,
    read_llava,
    read_parquet,
)
from adaptinf.data.records import content_digest
from adaptinf.evaluation import metric_names


def raw_records(shared_data, task, split="test"):
    with gzip.open(shared_data / "instruct" / f"{task}.{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("task", sorted(BUNDLE))
def test_every_task_is_read_whole(shared_data, task):
    for split in ("train", "test"):
        raw = raw_records(shared_data, task, split)
        quarantine = Quarantine(max_bad_fraction=0.0)
        path = shared_data / "instruct" / f"{task}.{split}.jsonl.gz"
        with quarantine.dataset(task):
            samples = list(read_jsonl(path, quarantine=quarantine, images=ImageFolder(shared_data, verify=False)))
        assert len(samples) == len(raw) == quarantine.seen
        for sample, record in zip(samples, raw, strict=True):
            assert (sample.id, sample.task, sample.skill, sample.group) == tuple(
                record[key] for key in ("id", "task", "skill", "group")
            )
            assert (sample.prompt, sample.answer) == (record["instruction"], record["response"])
            assert [image.path for image in sample.images] == [
                (shared_data / path).resolve() for path in record["images"]
            ]
            assert sample.meta == {**record["meta"], "source": record["source"]}
            assert sample.skill == BUNDLE[task].skill


def test_the_table_of_tasks_is_the_bundle(shared_data):
    found = {path.name.split(".")[0] for path in (shared_data / "instruct").glob("*.jsonl.gz")}
    assert found == set(BUNDLE)


def test_metrics_exist_and_answers_have_room():
    assert {spec.metric for spec in BUNDLE.values()} <= set(metric_names())
    assert len(BUNDLE_ORDER) >= 14
    assert len({BUNDLE[name].skill for name in BUNDLE_ORDER}) >= 12


@pytest.mark.slow
def test_the_default_stream(shared_data, tmp_path):
    config = DataConfig(source="bundle", root=str(shared_data), train_limit=40, test_limit=10, verify_images=False)
    stream = load_stream(config, seed=0, quarantine=tmp_path / "q.jsonl")
    assert stream.names == BUNDLE_ORDER
    assert stream.quarantined == 0
    assert all((len(task.train), len(task.test)) == (40, 10) for task in stream)
    for one in stream.reordered(["onestop_simplify"])[0].train:
        assert one.prompt == "Rewrite this sentence so that it is easier to read:\n" + one.meta["source_text"]


def test_every_picture_of_the_default_stream_decodes(shared_data):
    config = DataConfig(source="bundle", root=str(shared_data), max_bad_fraction=0.0)
    pictures = [
        name for name in BUNDLE_ORDER if name in ("omniglot_pair", "tux_caption", "bccd_grounding", "sroie_ocr")
    ]
    stream = load_stream(DataConfig(**{**vars(config), "order": pictures}), seed=0, quarantine=None)
    assert stream.quarantined == 0
    assert all(one.images for task in stream for one in task.train)


def test_other_formats_give_the_same_samples(shared_data, tmp_path):
    records = raw_records(shared_data, "omniglot_pair") + raw_records(shared_data, "bbh")[:50]
    images = ImageFolder(shared_data)
    expected = [
        content_digest(one)
        for task in ("omniglot_pair", "bbh")
        for one in read_jsonl(
            shared_data / "instruct" / f"{task}.test.jsonl.gz", quarantine=Quarantine(), images=images
        )
    ][: len(records)]
    talks = [
        {
            "id": record["id"],
            "image": record["images"],
            "conversations": [
                {"from": "human", "value": "<image>\n" * len(record["images"]) + record["instruction"]},
                {"from": "gpt", "value": record["response"]},
            ],
        }
        for record in records
    ]
    (tmp_path / "x.json").write_text(json.dumps(talks))
    encoded = [
        {**r, "images": [(shared_data / path).read_bytes() for path in r["images"]], "meta": None} for r in records
    ]
    pq.write_table(pa.Table.from_pylist(encoded), tmp_path / "x.parquet")
    for reader, name in ((read_llava, "x.json"), (read_parquet, "x.parquet")):
        samples = list(reader(tmp_path / name, quarantine=Quarantine(), images=images, task="t"))
        assert [sample.id for sample in samples] == [record["id"] for record in records]
        assert [content_digest(sample) for sample in samples] == expected


def test_bundle_files_named_by_hand(shared_data):
    spec = TaskSpec(name="mine", train=["instruct/omniglot_pair.t*.jsonl.gz"], test_fraction=0.2)
    (task,) = load_stream(DataConfig(source="files", root=str(shared_data), tasks=[spec]), seed=0, quarantine=None)
    assert len(task.train) + len(task.test) == 320
    assert task.skill == "multi-image"
    assert {one.group for one in task.train}.isdisjoint(one.group for one in task.test)
