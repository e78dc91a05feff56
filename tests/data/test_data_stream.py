"""Streams: identity, order, splits and limits, and configurations that cannot work."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adaptinf.config import DataConfig, TaskSpec
from adaptinf.data import Image, Sample, TaskDataset, TaskStream, apart, load_stream, split_by_group, split_pretraining
from adaptinf.data.stream import draw, unit_hash
from adaptinf.errors import ConfigError, DataError, DuplicateIdError, EmptyTaskError


def sample(id, *, task="t", group="", images=(), answer="yes", instruction="ok?"):
    return Sample.from_instruction(id, instruction, answer, images=images, task=task, group=group)


def dataset(name, n=10, **options):
    train = tuple(sample(f"{name}-{i}", task=name, group=f"{name}:{i // 2}") for i in range(n))
    test = tuple(sample(f"{name}-test-{i}", task=name, group=f"{name}:test:{i}") for i in range(2))
    return TaskDataset(name, "skill", train, test, **options)


STREAM = TaskStream((dataset("a"), dataset("b"), dataset("c")))


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(record) for record in records))


def rows(prefix, n, group=lambda i: ""):
    return [{"id": f"{prefix}{i}", "instruction": f"q{i}", "response": f"a{i}", "group": group(i)} for i in range(n)]


def files(root, *specs, **options):
    return DataConfig(source="files", root=str(root), tasks=list(specs), **options)


# identity and order


def test_a_stream_is_a_sequence():
    assert len(STREAM) == 3
    assert [task.name for task in STREAM] == list(STREAM.names) == ["a", "b", "c"]
    assert STREAM[1].name == "b"
    assert STREAM[-1] is STREAM.tasks[-1]


def test_reordered():
    assert STREAM.reordered(["c", "a"]).names == ("c", "a")
    with pytest.raises(ConfigError, match="did you mean 'a'"):
        TaskStream((dataset("a"), dataset("xyz"))).reordered(["aa"])
    with pytest.raises(ConfigError, match="twice"):
        STREAM.reordered(["a", "a"])


def test_fingerprint_sees_every_part_and_nothing_else(tmp_path):
    base = STREAM.fingerprint()
    assert base == TaskStream((dataset("a"), dataset("b"), dataset("c")), quarantined=5).fingerprint()
    first = STREAM[0].train[0]
    changes = [
        replace(first, id="other"),
        replace(first, answer="no"),
        replace(first, messages=(replace(first.messages[0], parts=("OK?",)),)),
        replace(first, messages=(replace(first.messages[0], role="system"), *first.messages)),
        replace(first, messages=(replace(first.messages[0], parts=("o", "k?")),)),
        sample(first.id, images=[Image(data=b"1")]),
        sample(first.id, images=[Image(data=b"2")]),
    ]
    seen = {base, STREAM.reordered("bac").fingerprint()}
    seen |= {
        TaskStream((replace(STREAM[0], train=(change, *STREAM[0].train[1:])), *STREAM.tasks[1:])).fingerprint()
        for change in changes
    }
    moved = replace(STREAM[0], train=STREAM[0].train[1:], test=(first, *STREAM[0].test))
    seen.add(TaskStream((moved, *STREAM.tasks[1:])).fingerprint())
    assert len(seen) == len(changes) + 3
    (tmp_path / "p").write_bytes(b"1")
    by_path, by_bytes = (
        TaskStream((replace(STREAM[0], train=(sample("x", images=[image]),)),)).fingerprint()
        for image in (Image(path=tmp_path / "p"), Image(data=b"1"))
    )
    assert by_path == by_bytes


FINGERPRINT = "a9e390400109f1399dff91b2be6f74a47546ba09ac9f1aad868bc3b74e8ec7ce"


def test_fingerprint_is_the_same_on_every_machine():
    assert TaskStream((dataset("a", 2),)).fingerprint() == FINGERPRINT


def test_a_stream_refuses_what_cannot_be_told_apart():
    with pytest.raises(DuplicateIdError, match="a-0"):
        TaskStream((dataset("a"), replace(dataset("b"), train=dataset("a").train)))
    with pytest.raises(DuplicateIdError):
        TaskStream((replace(dataset("a"), test=dataset("a").train),))
    with pytest.raises(DataError, match="share a name"):
        TaskStream((dataset("a"), replace(dataset("b"), name="a")))
    for split in ("train", "test"):
        with pytest.raises(EmptyTaskError, match="a: no usable"):
            TaskStream((replace(dataset("a"), **{split: ()}),))


# splits and limits


def test_the_draw_does_not_depend_on_the_order():
    samples = [sample(f"s{i}") for i in range(200)]
    shuffled = random.Random(0).sample(samples, 200)
    chosen = draw(samples, 50, seed=3)
    assert {one.id for one in chosen} == {one.id for one in draw(shuffled, 50, seed=3)}
    assert [one.id for one in chosen] == [one.id for one in samples if one in chosen]
    assert {one.id for one in chosen} != {one.id for one in draw(samples, 50, seed=4)}
    assert all(one in chosen for one in draw(samples, 30, seed=3)), "a smaller limit draws a part of the larger one"
    assert draw(samples, None, 0) == draw(samples, 200, 0) == tuple(samples)
    without = [one for one in samples if one is not chosen[0]]
    less = draw(without, 50, seed=3)
    assert all(one in less for one in chosen[1:]), "one sample less changes one place only"


def test_hash_is_uniform_and_fixed():
    values = [unit_hash(0, "p", str(i)) for i in range(4000)]
    assert all(0 <= value < 1 for value in values)
    counts = [sum(int(value * 10) == tenth for value in values) for tenth in range(10)]
    assert sum((count - 400) ** 2 / 400 for count in counts) < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001
    assert len({unit_hash(0, "p", "x"), unit_hash(1, "p", "x"), unit_hash(0, "q", "x"), unit_hash(0, "p", "y")}) == 4


def test_splits_keep_groups_whole():
    samples = [sample(f"s{i}", group=f"g{i // 5}") for i in range(100)]
    samples += [sample(f"p{i}", images=[Image(data=bytes([i // 4]))]) for i in range(40)]
    rest, held = split_by_group(samples, 0.3, seed=1)
    assert len(rest) + len(held) == 140
    assert {one.group for one in rest if one.group}.isdisjoint({one.group for one in held})
    pictures = [{one.images[0].sha256 for one in part if one.images} for part in (rest, held)]
    assert pictures[0].isdisjoint(pictures[1])
    units = {one.group for one in held if one.group} | pictures[1]
    assert len(units) == round(0.3 * 30)
    mixed = random.Random(0).sample(samples, 140)
    assert {one.id for one in split_by_group(mixed, 0.3, seed=1)[1]} == {one.id for one in held}


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1.0])
def test_both_sides_of_a_split_have_something(fraction):
    rest, held = split_by_group([sample("a"), sample("b")], fraction, seed=0)
    assert len(rest) == len(held) == 1
    with pytest.raises(EmptyTaskError, match="cannot be split"):
        split_by_group([sample("a", group="g"), sample("b", group="g")], fraction, seed=0)


def test_pretraining_leaks_nothing():
    shared = [sample(f"x{i}", task="x", group=f"shared:{i}") for i in range(200)]
    again = [sample(f"y{i}", task="y", group=f"shared:{i}") for i in range(200)]
    tested = [sample(f"z{i}", task="z", group=f"shared:{i}") for i in range(50)]
    first = TaskDataset("x", "s", tuple(shared), (sample("xt"),))
    second = TaskDataset("y", "s", tuple(again), (sample("yt"),))
    third = TaskDataset("z", "s", tuple(sample(f"z-train-{i}", group=f"z:{i}") for i in range(20)), tuple(tested))
    pretraining, rest = split_pretraining(TaskStream((first, second, third), quarantined=4), 0.3, seed=0)
    assert rest.quarantined == 4
    assert len(pretraining) + sum(len(task.train) for task in rest) == 420
    groups = {one.group for one in pretraining}
    assert groups.isdisjoint(one.group for task in rest for one in (*task.train, *task.test))
    taken = [one for one in pretraining if one.task == "x"]
    assert len(taken) == sum(one.task == "y" for one in pretraining)
    assert 25 < len(taken) < 65  # 0.3 of the 150 groups that no test split has: 45, five standard deviations
    assert split_pretraining(TaskStream((first, second, third)), 0.3, seed=0)[0] == pretraining
    with pytest.raises(EmptyTaskError, match="x: pre-training on 100%"):
        split_pretraining(TaskStream((first, second)), 1.0, seed=0)


def test_apart_are_the_groups_that_the_stream_has_not():
    held = TaskDataset("x", "s", (sample("x1", group="g1"), sample("x2")), (sample("x3", group="g3"),))
    others = [
        sample("o1", task="o", group="g1"),
        sample("o2", task="o", group="g2"),
        sample("o3", task="o", group="g3"),
    ]
    other = TaskDataset("o", "s", (*others, sample("o4", task="o")), (sample("o5", task="o"),))
    assert [one.id for one in apart(TaskStream((other,)), TaskStream((held,)))] == ["o2", "o4"]


# reading by configuration


def test_files_of_every_format(tmp_path):
    write(tmp_path / "j" / "1.jsonl", rows("j", 20, lambda i: f"g{i // 2}"))
    write(tmp_path / "j" / "2.jsonl", rows("k", 20, lambda i: f"h{i // 2}"))
    talk = [{"conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": "a"}]} for i in range(10)]
    (tmp_path / "l.json").write_text(json.dumps([{"id": i, **one} for i, one in enumerate(talk)]))
    pq.write_table(pa.Table.from_pylist(rows("p", 10)), tmp_path / "p.parquet")
    stream = load_stream(
        files(
            tmp_path,
            TaskSpec(
                name="j", skill="sj", train=["j/*.jsonl"], test_fraction=0.25, metric="accuracy", max_new_tokens=7
            ),
            TaskSpec(name="l", skill="sl", train=["l.json"], test_fraction=0.2, format="llava", limit=3),
            TaskSpec(name="p", skill="sp", train=["p.parquet"], test_fraction=0.2, format="parquet"),
            train_limit=6,
            test_limit=4,
        ),
        seed=0,
        quarantine=tmp_path / "q.jsonl",
    )
    assert [(task.name, task.skill, len(task.train), len(task.test)) for task in stream] == [
        ("j", "sj", 6, 4),
        ("l", "sl", 3, 2),
        ("p", "sp", 6, 2),
    ]
    assert (stream[0].metric, stream[0].max_new_tokens) == ("accuracy", 7)
    assert all(
        one.task == task.name and one.skill == task.skill for task in stream for one in (*task.train, *task.test)
    )
    assert all(one.id.startswith("l/") for one in stream[1].train)
    assert (tmp_path / "q.jsonl").read_text() == ""
    assert stream.quarantined == 0


def test_long_conversations_are_left_out_before_the_limits_draw(tmp_path):
    records = [record | {"response": "a" * (5 if i % 2 else 50)} for i, record in enumerate(rows("j", 40))]
    write(tmp_path / "j.jsonl", records)
    longest = len(records[-1]["instruction"]) + 5  # of those with the short answer
    task = TaskSpec(name="j", train=["j.jsonl"], test_fraction=0.5)
    (short,) = load_stream(
        files(tmp_path, task, max_characters=longest, train_limit=6, test_limit=4), seed=0, quarantine=None
    )
    assert (len(short.train), len(short.test)) == (6, 4)  # as many as asked for are short
    assert {len(one.answer) for one in (*short.train, *short.test)} == {5}
    (all_of_it,) = load_stream(files(tmp_path, task), seed=0, quarantine=None)
    assert len(all_of_it.train) + len(all_of_it.test) == 40
    with pytest.raises(EmptyTaskError):
        load_stream(files(tmp_path, task, max_characters=5), seed=0, quarantine=None)


def test_a_fraction_keeps_the_proportions_of_the_tasks(tmp_path):
    sizes = {"a": 40, "b": 8, "c": 2}
    for name, size in sizes.items():
        write(tmp_path / f"{name}.jsonl", rows(name, size))
        write(tmp_path / f"{name}_test.jsonl", rows(f"{name}_test", 3))
    tasks = [TaskSpec(name=name, train=[f"{name}.jsonl"], test=[f"{name}_test.jsonl"]) for name in sizes]

    def drawn(seed=0, **limits):
        return load_stream(files(tmp_path, *tasks, **limits), seed=seed, quarantine=None)

    assert [len(task.train) for task in drawn()] == [40, 8, 2]
    quarter = drawn(train_fraction=0.25)
    assert [len(task.train) for task in quarter] == [10, 2, 1]  # at least one each
    assert [len(task.test) for task in quarter] == [3, 3, 3]
    assert [len(task.train) for task in drawn(train_fraction=0.25, train_limit=4)] == [4, 2, 1]
    more = {one.id for one in drawn(train_fraction=0.5)[0].train}
    assert {one.id for one in quarter[0].train} < more != {one.id for one in drawn(seed=1, train_fraction=0.5)[0].train}


def test_quarantine_counts_and_duplicates_across_splits(tmp_path):
    write(tmp_path / "a.jsonl", rows("a", 50))
    write(tmp_path / "b.jsonl", [*rows("b", 50), *rows("a", 1)])
    spec = TaskSpec(name="t", train=["a.jsonl"], test=["b.jsonl"])
    stream = load_stream(files(tmp_path, spec), seed=0, quarantine=tmp_path / "q.jsonl")
    assert (len(stream[0].train), len(stream[0].test), stream.quarantined) == (50, 50, 1)
    (entry,) = map(json.loads, (tmp_path / "q.jsonl").read_text().splitlines())
    assert (entry["line"], entry["id"]) == (51, "a0")
    with pytest.raises(DataError, match=r"1 of 101 records"):
        load_stream(files(tmp_path, spec, max_bad_fraction=0.0), seed=0, quarantine=None)


def test_a_group_in_both_splits_is_an_error(tmp_path):
    write(tmp_path / "a.jsonl", rows("a", 5, lambda i: f"g{i}"))
    write(tmp_path / "b.jsonl", rows("b", 5, lambda i: f"g{i + 4}"))
    with pytest.raises(DataError, match=r"1 group.*'g4'"):
        load_stream(files(tmp_path, TaskSpec(name="t", train=["a.jsonl"], test=["b.jsonl"])), seed=0, quarantine=None)


def test_order_and_wrong_names(tmp_path):
    write(tmp_path / "a.jsonl", rows("a", 9))
    write(tmp_path / "b.jsonl", rows("b", 9))
    specs = [TaskSpec(name=name, train=[f"{name}.jsonl"], test_fraction=0.3) for name in ("a", "b")]
    assert load_stream(files(tmp_path, *specs, order=["b", "a"]), seed=0, quarantine=None).names == ("b", "a")
    assert load_stream(files(tmp_path, *specs, order=["b"]), seed=0, quarantine=None).names == ("b",)
    for config, match in [
        (files(tmp_path, *specs, order=["bb"]), "data.order: bb"),
        (files(tmp_path, *specs, order=["b", "b"]), "twice"),
        (files(tmp_path), "data.tasks: is empty"),
        (files(tmp_path, specs[0], specs[0]), "stands twice"),
        (files(tmp_path, TaskSpec(train=["a.jsonl"], test_fraction=0.3)), "is empty or"),
        (files(tmp_path / "absent", *specs), "no such folder"),
        (DataConfig(source="files", tasks=specs), "data.root: is not set"),
        (DataConfig(source="bundle"), "data.root: is not set"),
        (DataConfig(source="demo", order=["shape_vqa"]), "did you mean 'shapes_vqa'"),
        (files(tmp_path, replace(specs[0], test=["b.jsonl"])), "either test files or test_fraction"),
        (files(tmp_path, replace(specs[0], test_fraction=None)), "either test files or test_fraction"),
        (files(tmp_path, replace(specs[0], train=[str(tmp_path / "a.jsonl")])), "is absolute"),
        (files(tmp_path / ".", replace(specs[0], train=["../*/a.jsonl"])), "leaves the data root"),
        (files(tmp_path, replace(specs[0], image_root="..")), "leaves the data root"),
    ]:
        with pytest.raises(ConfigError, match=match):
            load_stream(config, seed=0, quarantine=None)
    for pattern in ("absent.jsonl", "absent*.jsonl"):
        with pytest.raises(DataError, match="no file matches"):
            load_stream(files(tmp_path, replace(specs[0], train=[pattern])), seed=0, quarantine=None)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="symbolic link"):
        load_stream(files(tmp_path / "inner", specs[0]), seed=0, quarantine=None)


@pytest.mark.parametrize("root", [".", "data", "../here/data", "data/../data"])
def test_the_root_may_be_relative_to_where_one_stands(tmp_path, monkeypatch, root):
    place = tmp_path / "here"
    folder = place if root == "." else place / "data"
    folder.mkdir(parents=True)
    write(folder / "a.jsonl", rows("a", 9))
    monkeypatch.chdir(place)
    spec = TaskSpec(name="t", train=["a.jsonl"], test_fraction=0.3)
    (task,) = load_stream(files(root, spec), seed=0, quarantine=None)
    assert len(task.train) + len(task.test) == 9


def test_an_empty_file_is_an_empty_task(tmp_path):
    write(tmp_path / "a.jsonl", [])
    write(tmp_path / "b.jsonl", rows("b", 3))
    with pytest.raises(EmptyTaskError, match="no usable training"):
        load_stream(files(tmp_path, TaskSpec(name="t", train=["a.jsonl"], test=["b.jsonl"])), seed=0, quarantine=None)
