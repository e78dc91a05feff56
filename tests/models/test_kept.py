"""Encodings are kept: nothing is encoded twice, whatever changes is noticed, and memory is bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adaptinf.data import Image, Message, Sample
from adaptinf.errors import EmptyAnswerError, ImageError, LabelError, SampleTooLongError
from adaptinf.models.collate import Encoded
from adaptinf.models.kept import KeptEncodings


@pytest.fixture
def counted(tiny, monkeypatch):
    """``counted(family)``: its encoder, and the list of what was really encoded."""

    def build(family):
        encoder = tiny(family).encoder
        made, encode = [], encoder._encode
        monkeypatch.setattr(
            encoder, "_encode", lambda sample, *a, **k: made.append(sample.id) or encode(sample, *a, **k)
        )
        return encoder, made

    return build


def equal(one: Encoded, other: Encoded) -> bool:
    return (
        (one.id, one.n_images) == (other.id, other.n_images)
        and torch.equal(one.input_ids, other.input_ids)
        and torch.equal(one.labels, other.labels)
        and one.extras.keys() == other.extras.keys()
        and all(torch.equal(one.extras[key], other.extras[key]) for key in one.extras)
    )


@pytest.mark.parametrize("family", ["llama", "llava", "qwen2_5_vl"])
def test_a_second_encoding_is_the_first_and_that_of_another_encoder(counted, tiny, text_samples, image_samples, family):
    encoder, made = counted(family)
    samples = text_samples if family == "llama" else image_samples
    ways = [lambda e, s, m=mode: e.encode(s, images=m) for mode in ("keep", "remove", "zero")]
    ways.append(lambda e, s: e.encode_prompt(s))
    first = [way(encoder, sample) for way in ways for sample in samples]
    once = len(made)
    copies = [replace(sample, meta={"other": 1}) for sample in samples]  # what the model does not see is no matter
    second = [way(encoder, sample) for way in ways for sample in copies]
    assert len(made) == once
    fresh = tiny(family).encoder
    fresh.kept.limit = 0
    alone = [way(fresh, sample) for way in ways for sample in samples]
    assert fresh.kept.held == 0
    assert all(equal(a, b) and equal(a, c) for a, b, c in zip(first, second, alone, strict=True))


def test_whatever_changes_is_encoded_anew(counted, make_picture, tmp_path):
    encoder, made = counted("llava")
    file = tmp_path / "picture.png"

    def sample(text="what?", answer="yes", red=1, id="s", role="user"):
        file.write_bytes(make_picture(red).data)  # the same path with other bytes is another picture
        parts = (Image(path=file), text)
        return Sample(id, (Message("user", parts), Message(role, ("so",)), Message("user", ("now",))), answer, "t")

    seen = [encoder.encode(sample())]
    for changes in ({"text": "when?"}, {"answer": "no"}, {"red": 250}, {"id": "other"}, {"role": "assistant"}):
        seen.append(encoder.encode(sample(**changes)))
        assert len(made) == len(seen), changes
    assert not torch.equal(seen[0].extras["pixel_values"], seen[3].extras["pixel_values"])
    digest = sample().images[0].sha256
    said = Sample("s", (Message("user", (digest, "what?")), *sample().messages[1:]), "yes", "t")
    assert encoder.encode(said).n_images == 0  # a text that is a picture's name is not that picture
    before = encoder.encode(sample())
    assert len(made) == len(seen) + 1
    encoder.processor.chat_template = "!" + encoder.processor.chat_template
    assert not torch.equal(encoder.encode(sample()).input_ids, before.input_ids)
    encoder.tokenizer.add_tokens(["what?"])
    assert encoder.encode(sample()) is not before and len(made) == len(seen) + 3
    encoder.max_length = 5
    with pytest.raises(SampleTooLongError):
        encoder.encode(sample())


def test_errors_come_every_time(tiny, make_picture, tmp_path):
    encoder = tiny("llava").encoder
    wrong = {
        EmptyAnswerError: Sample.from_instruction("s", "what?", " ", task="t"),
        LabelError: Sample.from_instruction("s", "what?</s>", "yes", task="t"),
        ImageError: Sample.from_instruction("s", "what?", "yes", images=[Image(data=b"none")], task="t"),
    }
    gone = Sample.from_instruction("lost", "what?", "yes", images=[Image(path=tmp_path / "gone.png")], task="t")
    for _ in range(2):
        for error, sample in wrong.items():
            with pytest.raises(error):
                encoder.encode(sample)
        with pytest.raises(ImageError, match="lost"):
            encoder.encode(gone)
    assert encoder.kept.held == 0
    assert encoder.encode(gone, images="remove").n_images == 0  # nobody looks at a picture that is removed


def test_memory_is_bounded_and_the_longest_unused_go_first():
    def encoding(name: str, pixels: int) -> Encoded:
        ids = torch.zeros(1, dtype=torch.int64)
        return Encoded(name, ids, ids.clone(), {"pixel_values": torch.zeros(pixels)}, 1)

    made: list[str] = []
    kept = KeptEncodings(limit=3 * encoding("", 100).nbytes)

    def get(name: str, pixels: int = 100) -> Encoded:
        return kept.get(name, lambda: made.append(name) or encoding(name, pixels))

    assert encoding("", 100).nbytes == 8 + 8 + 400
    for name in "abcabdabc":  # d takes the place of c, which is then made again in that of d
        assert get(name).id == name
        assert kept.held <= kept.limit
    assert made == list("abcdc")
    get("huge", 400)
    get("huge", 400)
    assert made[-2:] == ["huge", "huge"]  # what does not fit at all is not kept and drives nothing out
    assert [get(name).id for name in "abc"] == list("abc") and len(made) == 7
    assert kept.held == kept.limit
