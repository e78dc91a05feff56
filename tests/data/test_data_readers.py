"""Line and list readers: what becomes a sample, and what of hostile files is quarantined with which reason."""

from __future__ import annotations

import gzip
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptinf.data import Image, ImageFolder, Quarantine, load_image, read_jsonl, read_llava
from adaptinf.data import jsonl as jsonl_module
from adaptinf.data.records import COLUMNS, content_digest
from adaptinf.errors import DataError

from .reading import PNGS, read, record


def read_line(line: bytes, root, **options):
    path = root / "x.jsonl"
    path.write_bytes(line)
    return read(read_jsonl, path, root, **options)


# JSON Lines


def test_a_whole_record(root):
    line = record(images=["0.png", "1.png"], meta={"n": 1}, source="somewhere", split="train")
    (sample,), bad = read_line(line, root)
    assert not bad
    assert (sample.id, sample.task, sample.skill, sample.group, sample.answer) == ("a", "t", "s", "g", "hi")
    assert sample.meta == {"n": 1, "source": "somewhere"}
    (message,) = sample.messages
    assert message.role == "user"
    assert message.parts[2] == "Say hi."
    assert [int(np.asarray(load_image(image))[0, 0, 0]) for image in sample.images] == [10, 20]


def test_defaults_fill_what_the_record_lacks(root):
    line = json.dumps({"id": 7, "instruction": "x", "response": "y"}).encode()
    (sample,), _ = read_line(line, root, task="mine", skill="also mine")
    assert (sample.id, sample.task, sample.skill, sample.group) == ("7", "mine", "also mine", "")
    _, (bad,) = read_line(line, root, task="")
    assert "no task" in bad.reason


def test_placeholders_in_an_instruction_place_the_pictures(root):
    (sample,), _ = read_line(record(images=["0.png", "1.png"], instruction="From <image>\nto\n<image> what?"), root)
    kinds = [part if isinstance(part, str) else "PICTURE" for part in sample.messages[0].parts]
    assert kinds == ["From ", "PICTURE", "to", "PICTURE", " what?"]


HOSTILE = {
    "not JSON": (b"{", "not JSON"),
    "empty object": (b"{}", "instruction is missing"),
    "list": (b"[1]", "object, not list"),
    "number": (b"3", "object, not int"),
    "null": (b"null", "object, not NoneType"),
    "trailing text": (record() + b" x", "not JSON"),
    "two objects": (record() + record(), "not JSON"),
    "latin-1": (record().replace(b"hi", b"h\xe9"), "not UTF-8"),
    "utf-16": (record().decode().encode("utf-16"), "not UTF-8"),
    "lone surrogate": (record(response="\ud800"), "lone surrogate"),
    "lone surrogate in meta": (record(meta={"x": "\ud800"}), "meta cannot be kept"),
    "deep": (b'{"a":' * 200_000, "nested too deeply|not JSON"),
    "deep meta": (record(meta=json.loads('{"x":' * 60 + "1" + "}" * 60)), "deeper than 32"),
    "repeated key": (record()[:-1] + b', "response": "bye"}', "stands twice"),
    "repeated key in meta": (record()[:-1] + b', "meta": {"a": [{"b": 1, "b": 2}]}}', "stands twice in meta"),
    "NaN": (record(meta={"x": math.nan}), "NaN is not JSON"),
    "-Infinity": (record(meta={"x": -math.inf}), "-Infinity is not JSON"),
    "overflow to infinity": (record()[:-1] + b', "meta": {"x": 1e999}}', "meta cannot be kept"),
    "integer of 5000 digits": (record()[:-1] + b', "meta": {"x": ' + b"9" * 5000 + b"}}", "not JSON"),
    "meta list": (record(meta=[1]), "meta is not an object"),
    "id missing": (record(id=None), "no id"),
    "id blank": (record(id=" "), "no id"),
    "id bool": (record(id=True), "id is bool"),
    "id float": (record(id=1.5), "id is float"),
    "instruction number": (record(instruction=5), "instruction is int, not text"),
    "instruction blank": (record(instruction=" \n"), "instruction is empty"),
    "answer missing": (record(response=None), "response is missing"),
    "answer empty": (record(response=""), "answer is empty"),
    "answer blank": (record(response=" \n\t"), "answer is empty"),
    "answer list": (record(response=["hi"]), "response is list"),
    "answer with a placeholder": (record(response="<image>"), "answer contains <image>"),
    "group number": (record(group=3), "group is int"),
    "placeholder without a picture": (record(instruction="<image> what?"), "1 <image> placeholders, 0 pictures"),
    "picture missing": (record(images=["absent.png"]), "cannot be read"),
    "picture outside": (record(images=["../x.png"]), "leaves the data root"),
    "picture absolute": (record(images=["/etc/passwd"]), "leaves the data root"),
    "picture is text": (record(images=["x.jsonl"]), "JPEG, PNG, WEBP"),
    "picture number": (record(images=[3]), "not int"),
    "picture empty": (record(images=[""]), "not str|a picture is"),
    "pictures object": (record(images={"a": 1}), "a picture is"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lines_are_quarantined(name, root):
    line, reason = HOSTILE[name]
    samples, bad = read_line(record(id="before") + b"\n" + line + b"\n" + record(id="after"), root)
    assert [sample.id for sample in samples] == ["before", "after"]
    assert [entry.line for entry in bad] == [2]
    assert re.search(reason, bad[0].reason), bad[0].reason


def test_the_entry_names_the_id_when_it_is_known(root):
    _, bad = read_line(record(id="known", response="") + b"\n" + b"{", root)
    assert [entry.id for entry in bad] == ["known", None]


def test_a_repeated_id_is_quarantined(root):
    samples, bad = read_line(record() + b"\n" + record(response="other"), root)
    assert [sample.answer for sample in samples] == ["hi"]
    assert "earlier record" in bad[0].reason
    path = root / "x.jsonl"
    taken = {"a"}
    quarantine = Quarantine()
    assert not list(read_jsonl(path, quarantine=quarantine, images=ImageFolder(root), ids=taken))
    assert len(quarantine) == 2


def test_long_lines_are_cut_off_and_reading_goes_on(root, monkeypatch):
    monkeypatch.setattr(jsonl_module, "MAX_LINE_BYTES", 200)
    exact = record(id="e", response="")
    exact = record(id="e", response="r" * (199 - len(exact)))
    assert len(exact) == 199
    lines = [
        record(id="0"),
        record(id="1", response="r" * 10_000),
        exact,
        record(id="2", response="r" * 300),
        record(id="3"),
    ]
    samples, bad = read_line(b"\n".join(lines), root)
    assert [sample.id for sample in samples] == ["0", "e", "3"]
    assert [(entry.line, "longer than 200 bytes" in entry.reason) for entry in bad] == [(2, True), (4, True)]


def test_blank_lines_and_byte_order_mark(root):
    samples, bad = read_line(b"\xef\xbb\xbf" + record(id="1") + b"\r\n\n  \n" + record(id="2") + b"\n\n", root)
    assert [sample.id for sample in samples] == ["1", "2"]
    assert not bad


def test_gzip_and_its_damage(root):
    path = root / "x.jsonl.gz"
    path.write_bytes(gzip.compress(record()))
    samples, _ = read(read_jsonl, path, root)
    assert len(samples) == 1
    lines = b"\n".join(record(id=str(i), response=str(hash(str(i)))) for i in range(3000))
    for damaged in (gzip.compress(lines)[:-2000], record(), gzip.compress(lines)[:200] + b"\xff" * 50):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            read(read_jsonl, path, root)
    with pytest.raises(DataError, match="cannot be read"):
        read(read_jsonl, root / "absent.jsonl", root)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["0.png", "<image>", "human", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*COLUMNS, "from", "value"]), inner, max_size=6)
    ),
    max_leaves=12,
)
turns = st.lists(
    st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "system", "x"]), "value": json_values}), max_size=4
)
records = st.dictionaries(st.sampled_from(COLUMNS), json_values, max_size=8) | st.fixed_dictionaries(
    {"id": st.text(), "image": json_values, "conversations": turns}
)


@settings(max_examples=150, deadline=None)
@given(
    line=st.binary(max_size=300)
    | records.map(lambda one: json.dumps(one).encode())
    | json_values.map(lambda one: json.dumps(one).encode())
)
def test_any_line_is_a_sample_or_an_entry(tmp_path_factory, line):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "any.jsonl"
    path.write_bytes(line.replace(b"\n", b" ") + b"\n" + record(id="\x00last"))
    (folder / "0.png").write_bytes(PNGS[0])
    for reader in (read_jsonl, read_llava):
        samples, bad = read(reader, path, folder)
        assert samples[-1].id == "\x00last"
        for sample in samples:
            assert sample.answer.strip()
            assert sample.messages[-1].role == "user"
            json.dumps([sample.id, sample.prompt, sample.answer, dict(sample.meta)], allow_nan=False).encode()
            assert len(content_digest(sample)) == 64
        assert all(entry.line == 1 and entry.reason for entry in bad)


# LLaVA


def human(value):
    return {"from": "human", "value": value}


def gpt(value):
    return {"from": "gpt", "value": value}


def read_list(items, root, **options):
    path = root / "x.json"
    path.write_text(json.dumps(items))
    return read(read_llava, path, root, **options)


def test_llava_conversation(root):
    item = {
        "id": 17,
        "image": ["0.png", "1.png", "2.png"],
        "conversations": [
            {"from": "system", "value": "Be brief."},
            human("<image>\nand <image> differ?"),
            gpt("Yes."),
            human("What of this?\n<image>"),
            gpt("Darker."),
        ],
    }
    (sample,), bad = read_list([item], root)
    assert not bad
    assert sample.id == "17"
    assert sample.answer == "Darker."
    assert [message.role for message in sample.messages] == ["system", "user", "assistant", "user"]
    shape = [[part if isinstance(part, str) else "PICTURE" for part in message.parts] for message in sample.messages]
    assert shape == [["Be brief."], ["PICTURE", "and ", "PICTURE", " differ?"], ["Yes."], ["What of this?", "PICTURE"]]
    assert [np.asarray(load_image(image))[0, 0, 0] for image in sample.images] == [10, 20, 30]


def test_llava_text_only_and_single_path(root):
    text = {"id": "t", "conversations": [human("2+2?"), gpt("4")]}
    one = {"id": "o", "image": "0.png", "conversations": [human("<image>"), gpt("a square")]}
    samples, bad = read_list([text, one], root)
    assert not bad
    assert [len(sample.images) for sample in samples] == [0, 1]
    assert samples[1].messages[0].parts == (Image(path=(root / "0.png").resolve()),)


BROKEN_TALK = {
    "too few pictures": (
        {"image": "0.png", "conversations": [human("<image><image>"), gpt("x")]},
        "2 <image> placeholders, 1",
    ),
    "too many pictures": ({"image": ["0.png"], "conversations": [human("hi"), gpt("x")]}, "0 <image> placeholders, 1"),
    "picture spoken by gpt": (
        {"image": "0.png", "conversations": [human("a"), gpt("<image>"), human("b"), gpt("x")]},
        "an answer",
    ),
    "ends with human": ({"conversations": [human("a"), gpt("b"), human("c")]}, "turns must go"),
    "two humans": ({"conversations": [human("a"), human("b"), gpt("c")]}, "turns must go"),
    "starts with gpt": ({"conversations": [gpt("a")]}, "turns must go"),
    "system only": ({"conversations": [{"from": "system", "value": "a"}]}, "turns must go"),
    "late system": ({"conversations": [human("a"), {"from": "system", "value": "a"}, gpt("b")]}, "turns must go"),
    "unknown speaker": ({"conversations": [{"from": "bing", "value": "a"}, gpt("b")]}, "unknown speaker 'bing'"),
    "no speaker": ({"conversations": [{"value": "a"}, gpt("b")]}, "no speaker"),
    "no value": ({"conversations": [{"from": "human"}, gpt("b")]}, "text is missing"),
    "empty list": ({"conversations": []}, "not a list of turns"),
    "text": ({"conversations": "hi"}, "not a list of turns"),
    "turn is text": ({"conversations": ["hi"]}, "not an object with a speaker"),
    "empty human": ({"conversations": [human(""), gpt("b"), human("c"), gpt("d")]}, "user turn is empty"),
    "empty answer": ({"conversations": [human("a"), gpt(" ")]}, "answer is empty"),
    "empty earlier answer": ({"conversations": [human("a"), gpt(""), human("b"), gpt("c")]}, "assistant turn is empty"),
    "unknown part": (
        {"conversations": [{"role": "user", "content": [{"type": "video"}]}, gpt("b")]},
        "other than text and image",
    ),
}


@pytest.mark.parametrize("name", BROKEN_TALK)
def test_broken_conversations_are_quarantined(name, root):
    item, reason = BROKEN_TALK[name]
    good = {"id": "good", "conversations": [human("a"), gpt("b")]}
    samples, bad = read_list([good, {"id": "bad", **item}], root)
    assert [sample.id for sample in samples] == ["good"]
    assert (bad[0].line, bad[0].id) == (2, "bad")
    assert reason in bad[0].reason


def test_role_and_content_parts_are_read_as_well(root):
    parts = [{"type": "image"}, {"type": "text", "text": "what?", "extra": None}]
    item = {
        "id": "m",
        "images": ["1.png"],
        "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}],
    }
    (sample,), _ = read_list([item], root)
    assert sample.messages[0].parts[1:] == ("what?",)
    assert sample.answer == "x"


def test_ids_are_derived_and_repeated_ones_told_apart(root):
    talk = [[human(f"q{i}"), gpt("a")] for i in range(3)]
    items = [
        {"id": "same", "conversations": talk[0]},
        {"id": "same", "conversations": talk[1]},
        {"conversations": talk[2]},
    ]
    first, bad = read_list(items, root)
    again, _ = read_list(items, root)
    assert not bad
    ids = [sample.id for sample in first]
    assert ids == [sample.id for sample in again]
    assert len(set(ids)) == 3
    assert ids[0] == "same"
    assert ids[1] == f"same-{content_digest(first[1])[:16]}"
    moved, _ = read_list([items[2], *items[:2]], root)
    assert moved[0].id != ids[2], "content and position make the id"
    assert moved[2].id == ids[1], "a repeated id does not depend on the position"


def test_a_repeated_key_breaks_one_record_of_a_list(root):
    path = root / "x.json"
    path.write_text(
        '[{"id": "1", "id": "2", "conversations": []}, '
        + json.dumps({"id": "3", "conversations": [human("a"), gpt("b")]})
        + "]"
    )
    samples, bad = read(read_llava, path, root)
    assert [sample.id for sample in samples] == ["3"]
    assert "twice" in bad[0].reason


@pytest.mark.parametrize("content", [b"", b"{}", b"[1,", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_list_is_an_error(root, content):
    path = root / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json"):
        read(read_llava, path, root)


# Quarantine


def test_the_share_of_broken_records_is_bounded(root, tmp_path):
    file = tmp_path / "out" / "quarantine.jsonl"
    path = root / "x.jsonl"
    path.write_bytes(b"\n".join([record(id=str(i)) for i in range(98)] + [b"{", record(id="98", response="")]))
    for allowed in (0.02, 0.019):
        quarantine = Quarantine(file, max_bad_fraction=allowed)

        def run(quarantine=quarantine):
            with quarantine.dataset("news"):
                return list(read_jsonl(path, quarantine=quarantine, images=ImageFolder(root)))

        if allowed == 0.02:
            assert len(run()) == 98
            assert not file.exists()
            continue
        with pytest.raises(DataError) as caught:
            run()
        message = str(caught.value)
        assert "news: 2 of 100 records" in message
        assert f"{path}:99: not JSON" in message
        assert str(file) in message
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(entry["file"], entry["line"], entry["id"]) for entry in entries] == [
        (str(path), 99, None),
        (str(path), 100, "98"),
    ]
    assert list(file.parent.iterdir()) == [file]


def test_each_dataset_is_judged_alone():
    quarantine = Quarantine(max_bad_fraction=0.1)
    with quarantine.dataset("large"):
        quarantine.seen += 1000
    with pytest.raises(DataError, match="small: 1 of 2"), quarantine.dataset("small"):
        quarantine.seen += 2
        quarantine.add("f", 1, "broken")
