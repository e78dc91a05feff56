"""A routed model behind transformers' pipeline answers as it does without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import ClassVar

import numpy as np
import peft
import pytest
import torch
from transformers import TextGenerationPipeline

from adaptinf.data import Message, Sample
from adaptinf.errors import DataError, UnsupportedModelError
from adaptinf.models import LanguageModel, wrap
from adaptinf.routing import RoutedModel, Routes

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
GREEDY = {"do_sample": False, "max_new_tokens": 8, "return_full_text": False}
TEXTS = ["a the quick", "b brown", "x fox jumps over the lazy dog", "c and", "a then it sleeps", "c all day long"]


class FirstLetter:
    """Routes by the first letter of the request's first message, and remembers what it saw."""

    kind: ClassVar[str] = "first letter"

    def __init__(self) -> None:
        self.names = ["a", "b", "c"]
        self.seen: list[list[Sample]] = []

    def add_task(self, name: str, samples: Sequence[Sample]) -> None:
        raise AssertionError(name)

    def predict(self, samples: Sequence[Sample]) -> Routes:
        self.seen.append(list(samples))
        tasks = [sample.prompt[0] if sample.prompt[0] in self.names else None for sample in samples]
        return Routes(tasks, self.names, np.full((len(samples), 3), 1 / 3), np.zeros(len(samples)))


@pytest.fixture
def model(llama: Callable[[], LanguageModel], saved: dict[str, Path]) -> RoutedModel:
    lm = llama()
    tokenizer = copy(lm.encoder.tokenizer)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.chat_template = TEMPLATE
    lm = wrap(lm.model, tokenizer, name=lm.name)
    made = RoutedModel(lm, FirstLetter())
    for name, directory in saved.items():
        made.add_adapter(name, directory)
    return made


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(answers: list) -> list[str]:
    return [one[0]["generated_text"] for one in answers]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_chats_are_answered_as_without_it(model: RoutedModel, batch_size: int) -> None:
    samples = [Sample.from_instruction(str(i), text, "", task="") for i, text in enumerate(TEXTS)]
    expected = [answer.text for answer in model.generate(samples, max_new_tokens=8)]
    side = model.lm.encoder.tokenizer.padding_side  # pyright: ignore[reportAttributeAccessIssue]
    pipe = model.pipeline(batch_size=batch_size)
    assert isinstance(pipe, TextGenerationPipeline)
    found = said(pipe([chat(text) for text in TEXTS], **GREEDY))
    assert [text.strip() for text in found] == expected
    assert len(set(expected)) > 4  # the adapters say different things
    assert said(list(pipe((chat(text) for text in TEXTS), **GREEDY))) == found  # a stream
    assert pipe(chat(TEXTS[1]), **GREEDY)[0]["generated_text"] == found[1]
    assert not any("forward" in vars(module) for module in model.lm.model.modules())  # nothing stays behind
    assert [answer.text for answer in model.generate(samples, max_new_tokens=8)] == expected
    assert model.lm.encoder.tokenizer.padding_side == side  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("batch_size", [1, 6])
@pytest.mark.parametrize("more", [{}, {"num_beams": 2}, {"num_beams": 3, "num_return_sequences": 2}])
def test_texts_are_continued_through_their_adapters(
    model: RoutedModel, llama: Callable[[], LanguageModel], saved: dict[str, Path], batch_size: int, more: dict
) -> None:
    found = model.pipeline()(TEXTS, batch_size=batch_size, **GREEDY, **more)
    for text, answers in zip(TEXTS, found, strict=True):
        lm = llama()
        alone = lm.model
        if text[0] in saved:
            alone = peft.PeftModel.from_pretrained(lm.model, str(saved[text[0]])).eval()  # pyright: ignore[reportArgumentType]
        tokenizer = lm.encoder.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            made = alone.generate(**inputs, do_sample=False, max_new_tokens=8, pad_token_id=1, **more)
        expected = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert [answer["generated_text"] for answer in answers] == expected


def test_what_the_router_sees(model: RoutedModel) -> None:
    pipe, router = model.pipeline(), model.router
    assert isinstance(router, FirstLetter)
    turns = [
        {"role": "system", "content": "c be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    beginning = {"role": "assistant", "content": "Well"}
    for asked in (turns, [*turns, beginning], "plain"):
        pipe(asked, **GREEDY)
    seen = [[(message.role, message.text) for message in batch[0].messages] for batch in router.seen]
    whole = [("system", "c be brief"), ("user", "one two"), ("assistant", "three"), ("user", "four")]
    assert seen == [whole, whole, [("user", "plain")]]
    router.seen.clear()
    pipe(TEXTS, batch_size=4, **GREEDY)
    assert [[sample.messages for sample in batch] for batch in router.seen] == [
        [(Message("user", (text,)),) for text in part] for part in (TEXTS[:4], TEXTS[4:])
    ]


def test_what_is_refused(model: RoutedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = model.pipeline()
    with pytest.raises(DataError, match="tool: is no role that routers know"):
        pipe([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}], **GREEDY)
    with pytest.raises(DataError, match=r"content of type 'image': is no text[\s\S]*RoutedModel\.generate"):
        pipe([{"role": "user", "content": [{"type": "image", "url": "x.png"}]}], **GREEDY)
    monkeypatch.setattr(type(model.lm.encoder), "sees", True)
    with pytest.raises(UnsupportedModelError, match="tiny-llama: is no model of text alone"):
        model.pipeline()
