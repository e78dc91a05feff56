"""The instruction behind its input: what moves, what stays, and what cannot be told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptinf.config import DataConfig, TaskSpec
from adaptinf.data import Image, ImageFolder, Message, Quarantine, Sample, load_stream, read_jsonl
from adaptinf.data.instruction import instruction_last
from adaptinf.errors import DataError

PICTURE = Image(data=b"\x89PNG")


def made(*parts: str | Image, before: tuple[Message, ...] = (), **meta: object) -> Sample:
    return Sample("s7", (*before, Message("user", parts)), "answer", "t", meta=meta)


def parts_of(sample: Sample) -> tuple[str | Image, ...]:
    return instruction_last(sample).messages[-1].parts


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("Sum up:\nA long text.",), ("A long text.\nSum up:",)),
        (("Sum up: A long\n\ntext. \n",), ("A long\n\ntext.\nSum up:",)),
        (("Sum up:",), ("Sum up:",)),  # there is no input
        ((PICTURE, "Sum up:"), (PICTURE, "Sum up:")),
        ((PICTURE, "Sum up:\nA text."), (PICTURE, "A text.\nSum up:")),
        (("Sum up:", PICTURE), (PICTURE, "Sum up:")),
        (("Sum up:\none", PICTURE, "two", PICTURE), ("one", PICTURE, "two", PICTURE, "Sum up:")),
        (("Sum up:\none", PICTURE, "two"), ("one", PICTURE, "two\nSum up:")),
    ],
)
def test_the_instruction_goes_behind_everything_else(
    before: tuple[str | Image, ...], after: tuple[str | Image, ...]
) -> None:
    assert parts_of(made(*before, instruction="Sum up:")) == after


def test_everything_else_of_a_sample_stays() -> None:
    system = Message("system", ("Be brief.",))
    one = made("Sum up:\nA text.", before=(system,), instruction="Sum up:", source="here")
    moved = instruction_last(one)
    assert moved.messages[0] == system and (moved.id, moved.answer, moved.task) == ("s7", "answer", "t")
    assert moved.meta == {"instruction": "Sum up:", "source": "here", "source_text": "A text."}
    told = made("Sum up:\nA text.", instruction="Sum up:", source_text="of its own")
    assert instruction_last(told).meta["source_text"] == "of its own"
    picture_first = made(PICTURE, "What is it?\nAnswer yes or no.")
    assert instruction_last(picture_first) is picture_first


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (made("Sum up:\nA text."), "does not say which words"),
        (made("What is", PICTURE), "does not say which words"),
        (made("A text.\nSum up:", instruction="Sum up:"), "does not begin with its instruction 'Sum up:'"),
        (made(PICTURE, instruction="Sum up:"), "does not begin with its instruction"),
        (made("Sum up:", instruction=7), "does not say which words"),
        (
            made("b", before=(Message("user", ("a",)), Message("assistant", ("c",))), instruction="b"),
            "has 2 user turns",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_named(sample: Sample, message: str) -> None:
    with pytest.raises(DataError, match=f"^s7: .*{message}"):
        instruction_last(sample)


def write(folder: Path, *records: dict[str, object]) -> Path:
    file = folder / "x.jsonl"
    file.write_text("\n".join(json.dumps({"id": str(i), "response": "r", **one}) for i, one in enumerate(records)))
    return file


def test_the_input_of_a_record_follows_its_instruction(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"instruction": "Sum up:", "input": "A text."},
        {"instruction": "Write a poem.", "input": ""},
        {"instruction": "Write a poem.", "input": None},
        {"instruction": "Write a poem."},
        {"instruction": "Sum up:", "input": ["A text."]},
    )
    quarantine = Quarantine(max_bad_fraction=1.0)
    samples = list(read_jsonl(file, quarantine=quarantine, images=ImageFolder(tmp_path), task="t"))
    assert [one.prompt for one in samples] == ["Sum up:\nA text.", *["Write a poem."] * 3]
    assert [one.meta.get("instruction") for one in samples] == ["Sum up:", "Write a poem.", None, None]
    assert [entry.reason for entry in quarantine.entries] == ["input is list, not text"]


def test_a_stream_is_given_or_has_its_instructions_last(tmp_path: Path) -> None:
    write(tmp_path, *({"instruction": "Sum up:", "input": f"Text {i}."} for i in range(6)))
    spec = TaskSpec(name="t", train=["x.jsonl"], test_fraction=0.5)
    streams = {
        position: load_stream(
            DataConfig(source="files", root=str(tmp_path), tasks=[spec], instruction_position=position),
            seed=0,
            quarantine=None,
        )
        for position in ("given", "last")
    }
    for given, last in zip(streams["given"], streams["last"], strict=True):
        for one, other in zip((*given.train, *given.test), (*last.train, *last.test), strict=True):
            text = one.prompt.removeprefix("Sum up:\n")
            assert (one.id, other.prompt) == (other.id, f"{text}\nSum up:") and text.startswith("Text ")
    assert streams["given"].fingerprint() != streams["last"].fingerprint()
    write(tmp_path, *({"instruction": f"Text {i}."} for i in range(6)))
    with pytest.raises(DataError, match="does not say which words"):
        load_stream(
            DataConfig(source="files", root=str(tmp_path), tasks=[spec], instruction_position="last"),
            seed=0,
            quarantine=None,
        )


def test_tasks_of_the_bundle_that_have_one_template_a_task(shared_data: Path) -> None:
    config = DataConfig(
        source="bundle",
        root=str(shared_data),
        order=["esnli_explain", "onestop_simplify", "emotion_dialogue", "scitldr"],
        train_limit=20,
        test_limit=5,
        instruction_position="last",
    )
    firsts = ("Explain why", "Rewrite this sentence", "Continue the dialogue", "Summarise this paper")
    for task, first in zip(load_stream(config, seed=0, quarantine=None), firsts, strict=True):
        for one in (*task.train, *task.test):
            text, _, instruction = one.prompt.rpartition("\n")
            assert instruction.startswith(first) and text.strip() == text == one.meta["source_text"].strip()
