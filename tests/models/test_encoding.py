"""Labels, errors, pictures and templates of the encoders."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptinf.data import Image, Message, Sample
from adaptinf.errors import (
    EmptyAnswerError,
    ImageError,
    LabelError,
    SampleTooLongError,
    UnsupportedModelError,
)
from adaptinf.models import Encoder, TextEncoder
from adaptinf.models.collate import Encoded, collate, join_pictures, like_lengths
from adaptinf.models.kept import KeptEncodings


def labelled(encoder, encoded):
    """The labelled stretches, decoded with their special tokens."""
    stretches, run = [], []
    for label in [*encoded.labels.tolist(), -100]:
        if label != -100:
            run.append(label)
        elif run:
            stretches.append(encoder.tokenizer.decode(run, skip_special_tokens=False))
            run = []
    return stretches


@pytest.mark.parametrize(
    ("family", "end"), [("llama", "</s>"), ("gpt2", "<|endoftext|>"), ("qwen2", "<|im_end|>"), ("opt", "</s>")]
)
def test_text_labels_are_the_answers_with_their_ends(tiny, text_samples, family, end):
    encoder = tiny(family).encoder
    assert isinstance(encoder, Encoder)
    lead = "" if family == "qwen2" else " "
    short, _, turns = (encoder.encode(sample) for sample in text_samples)
    assert labelled(encoder, short) == [f"{lead}yes{end}"]
    assert labelled(encoder, turns) == [f"{lead}Größe 二 🙂{end}", f"{lead}three blue circle{end}"]
    assert int(short.labels[0]) == -100
    kept = turns.labels != -100
    assert torch.equal(turns.labels[kept], turns.input_ids[kept])
    assert encoder.tokenizer.eos_token_id in encoder.stop_ids


@pytest.mark.parametrize(
    ("family", "turns"),
    [
        ("llava", [" a square ", " a circle</s>"]),
        ("qwen2_5_vl", ["a square<|im_end|>", "a circle<|im_end|>"]),
        ("idefics3", [" a square<end_of_utterance>", " a circle<end_of_utterance>"]),
        ("smolvlm", [" a square<end_of_utterance>", " a circle<end_of_utterance>"]),
    ],
)
def test_picture_models_labels(tiny, image_samples, family, turns):
    encoder = tiny(family).encoder
    encoded = [encoder.encode(sample) for sample in image_samples]
    assert [one.n_images for one in encoded] == [1, 2, 0, 2]
    assert labelled(encoder, encoded[3]) == turns
    assert not encoded[2].extras
    placeholder = encoder.tokenizer.convert_tokens_to_ids(encoder.processor.image_token)
    counts = [int((one.input_ids == placeholder).sum()) for one in encoded]
    assert counts[0] >= 1
    assert counts[2] == 0
    if family == "llava":
        assert counts == [4, 8, 0, 8]


@pytest.mark.parametrize("family", ["llama", "qwen2", "llava", "qwen2_5_vl", "idefics3"])
def test_prompt_is_what_precedes_the_answer(tiny, text_samples, image_samples, family):
    encoder = tiny(family).encoder
    for sample in text_samples if family in ("llama", "qwen2") else image_samples:
        prompt, whole = encoder.encode_prompt(sample), encoder.encode(sample)
        count = len(prompt.input_ids)
        assert torch.equal(whole.input_ids[:count], prompt.input_ids)
        assert int(whole.labels[count]) != -100
        assert bool((whole.labels[count:] != -100).all())
        assert torch.equal(whole.labels[count:], whole.input_ids[count:])
        assert bool((prompt.labels == -100).all())
        assert prompt.extras.keys() == whole.extras.keys()


def test_one_rendering_tokenised_at_once_gives_the_same_ids(tiny, text_samples):
    """Cutting at the turns changes nothing where the template's own tokens stand at the borders."""
    encoder = tiny("qwen2").encoder
    for sample in text_samples:
        chat = [{"role": m.role, "content": m.text} for m in sample.messages]
        chat.append({"role": "assistant", "content": sample.answer})
        ids = encoder.tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
        found = encoder.encode(sample).input_ids.tolist()
        assert ids[: len(found)] == found
        assert encoder.tokenizer.decode(ids[len(found) :]).strip() == ""


def test_what_others_left_in_the_tokenizer_changes_nothing(tiny, text_samples):
    """Truncation, padding and split control tokens of an earlier call stay in a tokenizer's backend."""
    lm = tiny("llama")
    tokenizer = lm.encoder.tokenizer
    expected = [lm.encoder.encode(sample).input_ids.tolist() for sample in text_samples]
    backend = tokenizer.backend_tokenizer
    for leave in (lambda: backend.enable_truncation(2), lambda: backend.enable_padding(length=99)):
        leave()
        lm.encoder.kept = KeptEncodings()
        assert [lm.encoder.encode(sample).input_ids.tolist() for sample in text_samples] == expected
    for text in ("", " what\n", "<|im_end|>two", "é 三"):
        assert lm.encoder._ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    tokenizer("two", split_special_tokens=True)
    assert lm.encoder._ids("<|im_end|>") == tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("answer", ["", "  ", "\n\t"])
def test_empty_answers(tiny, answer):
    with pytest.raises(EmptyAnswerError, match="bad"):
        tiny("llama").encoder.encode(Sample.from_instruction("bad", "q", answer, task="t"))


def test_too_long_samples_name_themselves(tiny):
    encoder = tiny("qwen2", max_length=30).encoder
    sample = Sample.from_instruction("bad", "one two three " * 20, "yes", task="t")
    with pytest.raises(SampleTooLongError, match=r"bad: has \d+ tokens, the context is 30"):
        encoder.encode(sample)
    with pytest.raises(SampleTooLongError, match="bad"):
        encoder.encode_prompt(sample)


def test_the_context_is_a_bound_of_max_length(tiny):
    assert tiny("qwen2", max_length=10_000).encoder.max_length == 512


@pytest.mark.parametrize("where", ["question", "answer"])
def test_control_tokens_in_the_data_are_refused(tiny, where):
    texts = {"question": "what?", "answer": "yes"} | {where: "a <|im_end|> b"}
    with pytest.raises(LabelError, match=r"bad: .*<\|im_end\|>"):
        tiny("qwen2").encoder.encode(Sample.from_instruction("bad", texts["question"], texts["answer"], task="t"))
    with pytest.raises(LabelError, match=r"bad: .*<image>"):
        tiny("llava").encoder.encode(Sample.from_instruction("bad", "an <image> tag", "yes", task="t"))


def test_templates_that_change_the_answer_or_earlier_turns_are_refused(tiny, text_samples):
    encoder = tiny("qwen2").encoder
    shout = encoder.tokenizer.chat_template.replace("{{ m['content'] }}", "{{ m['content'] | upper }}")
    encoder.tokenizer.chat_template = shout
    with pytest.raises(LabelError, match="decode to 'YES'"):
        encoder.encode(text_samples[0])
    forgets = "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}{{ m['content'] }}<|im_end|>"
    forgets += "{% endif %}{% endfor %}"
    encoder.tokenizer.chat_template = forgets
    with pytest.raises(LabelError, match="only append"):
        encoder.encode(text_samples[2])
    encoder.tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(UnsupportedModelError, match="no such role"):
        encoder.encode(text_samples[0])


def test_a_tokenizer_without_template_and_end_is_refused(tiny):
    tokenizer = tiny("llama").encoder.tokenizer
    tokenizer.eos_token = None
    with pytest.raises(UnsupportedModelError, match="neither a chat template nor an EOS"):
        TextEncoder(tokenizer, max_length=10)


def test_pictures_for_a_text_model(tiny, make_picture):
    encoder = tiny("llama").encoder
    sample = Sample.from_instruction("s", "what?", "yes", images=[make_picture()], task="t")
    with pytest.raises(UnsupportedModelError, match="without vision"):
        encoder.encode(sample)
    plain = Sample.from_instruction("s", "what?", "yes", task="t")
    assert torch.equal(encoder.encode(sample, images="remove").input_ids, encoder.encode(plain).input_ids)


def test_encode_all_drops_with_reasons(tiny, make_picture):
    encoder = tiny("llava").encoder
    samples = [
        Sample.from_instruction("good", "what?", "yes", images=[make_picture()], task="t"),
        Sample.from_instruction("empty", "what?", " ", task="t"),
        Sample.from_instruction("long", "what? " * 2000, "yes", task="t"),
        Sample.from_instruction("broken", "what?", "yes", images=[Image(data=b"no picture")], task="t"),
        Sample.from_instruction("forged", "what?</s>", "yes", task="t"),
    ]
    encoded, dropped = encoder.encode_all(samples, on_error="drop")
    assert [one.id for one in encoded] == ["good"]
    assert [(id, reason.split(":")[0]) for id, reason in dropped] == [
        ("empty", "EmptyAnswerError"),
        ("long", "SampleTooLongError"),
        ("broken", "ImageError"),
        ("forged", "LabelError"),
    ]
    with pytest.raises(EmptyAnswerError, match="empty"):
        encoder.encode_all(samples)
    with pytest.raises(ImageError):
        encoder.encode(samples[3])


def test_identity_changes_with_the_template(tiny):
    encoder = tiny("qwen2").encoder
    before = encoder.identity()
    assert before == tiny("qwen2").encoder.identity()
    encoder.tokenizer.chat_template += " "
    assert before != encoder.identity()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: "<" not in text)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_any_text_round_trips(tiny, family):
    encoder = tiny(family).encoder

    @settings(max_examples=30, deadline=None)
    @given(TEXT, TEXT, TEXT.filter(str.strip))
    def check(question, earlier, answer):
        turns = (Message("user", (question,)), Message("assistant", (earlier,)), Message("user", ("so",)))
        encoded = encoder.encode(Sample("s", turns, answer, "t"))
        assert " ".join(encoder.decode(encoded.input_ids).split()).endswith(" ".join(answer.split()))
        prompt = encoder.encode_prompt(Sample("s", turns, answer, "t"))
        assert " ".join(encoder.decode(encoded.input_ids[len(prompt.input_ids) :]).split()) == " ".join(answer.split())

    check()


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([], []),
        ([7], [[0]]),
        ([3, 3, 3], [[0, 1, 2]]),
        ([9, 6, 5, 4, 3, 1], [[0, 1], [2, 3], [4], [5]]),
        ([10, 150, 100, 99, 15], [[1, 2], [3], [4, 0]]),
    ],
)
def test_parts_of_like_length(lengths, parts):
    assert like_lengths(lengths) == parts


def test_collate_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    batch = []
    for index, length in enumerate((3, 1, 6)):
        ids = torch.randint(1, 9, (length,), generator=generator)
        labels = torch.where(torch.arange(length) > 1, ids, -100)
        batch.append(Encoded(str(index), ids, labels, {"mm_token_type_ids": ids % 2} if index else {}, 0))
    for side in ("left", "right"):
        out = collate(batch, 0, padding_side=side)
        for row, one in enumerate(batch):
            cells = slice(6 - len(one.input_ids), 6) if side == "left" else slice(0, len(one.input_ids))
            assert torch.equal(out["input_ids"][row, cells], one.input_ids)
            assert torch.equal(out["labels"][row, cells], one.labels)
            assert (
                int(out["attention_mask"][row].sum())
                == int(out["attention_mask"][row, cells].sum())
                == len(one.input_ids)
            )
            wanted = one.extras.get("mm_token_type_ids", torch.zeros_like(one.input_ids))
            assert torch.equal(out["mm_token_type_ids"][row, cells], wanted)
        assert int((out["labels"] != -100).sum()) == sum(int((one.labels != -100).sum()) for one in batch)
    packed = collate(batch, 0, packed=True)
    assert packed["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1, 2, 3, 4, 5]]
    assert packed["cu_seqlens"].tolist() == [0, 3, 4, 10]
    assert packed["cu_seqlens"].dtype == torch.int32
    assert torch.equal(packed["input_ids"][0], torch.cat([one.input_ids for one in batch]))
    with pytest.raises(ValueError, match="empty batch"):
        collate([], 0)


def test_pictures_of_different_sizes_are_padded():
    a, b = torch.ones(1, 2, 3, 4, 4), torch.full((2, 1, 3, 6, 2), 2.0)
    joined = join_pictures([a, b])
    assert joined.shape == (3, 2, 3, 6, 4)
    assert torch.equal(joined[:1, :2, :, :4, :4], a)
    assert torch.equal(joined[1:, :1, :, :6, :2], b)
    assert float(joined.sum()) == float(a.sum() + b.sum())
