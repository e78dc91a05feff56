"""Several test samples in one prompt: what is asked, and which answer is whose."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from adaptinf.data import Image, Message, Sample, TaskDataset
from adaptinf.errors import ConfigError, DataError, SampleTooLongError
from adaptinf.evaluation import evaluate_stream, evaluate_task
from adaptinf.evaluation.together import apart, together

HEADER = "Answer each of the 2 inputs below. Begin each answer on a line of its own with the number of its input."
PICTURE, OTHER = Image(data=b"1"), Image(data=b"2")


def made(id: str, *parts: str | Image, before: tuple[Message, ...] = (), **meta: object) -> Sample:
    return Sample(id, (*before, Message("user", parts)), f"answer {id}", "t", meta=meta)


def test_whole_prompts_are_numbered() -> None:
    asked = together([made("a", "Is it red?"), made("b", "Is it\nblue?")])
    assert asked.messages == (Message("user", (f"{HEADER}\n1. Is it red?\n2. Is it\nblue?",)),)
    assert (asked.id, asked.answer, asked.task) == ("a + b", "1. answer a\n2. answer b", "t")
    alone = made("a", "Is it red?")
    assert together([alone]) is alone


@pytest.mark.parametrize("prompt", ["Sum up:\n{}", "{}\nSum up:"])
def test_an_instruction_of_all_is_written_once(prompt: str) -> None:
    one, two = (made(id, prompt.format(f"Text {id}."), instruction="Sum up:") for id in "ab")
    assert together([one, two]).prompt == f"Sum up:\n{HEADER}\n1. Text a.\n2. Text b."
    other = made("c", "Rewrite:\nText c.", instruction="Rewrite:")
    assert together([one, other]).prompt == f"{HEADER}\n1. {one.prompt}\n2. Rewrite:\nText c."
    elsewhere = made("d", "Please. Sum up: \nText d. ", instruction="Sum up:")
    assert together([one, elsewhere]).prompt == f"{HEADER}\n1. {one.prompt}\n2. {elsewhere.prompt}"


def test_pictures_stay_with_their_numbers_and_a_common_system_turn_stays() -> None:
    system = Message("system", ("Be brief.",))
    asked = together([made("a", PICTURE, "Red?", before=(system,)), made("b", OTHER, "Blue?", before=(system,))])
    assert asked.messages == (
        system,
        Message("user", (f"{HEADER}\n1. ", PICTURE, "Red?\n2. ", OTHER, "Blue?")),
    )


@pytest.mark.parametrize(
    "before",
    [(Message("system", ("Be long.",)),), (Message("user", ("a",)), Message("assistant", ("b",)))],
)
def test_conversations_are_not_asked_together(before: tuple[Message, ...]) -> None:
    with pytest.raises(DataError, match="b: has other turns before its prompt"):
        together([made("a", "x"), made("b", "y", before=before)])
    several = (Message("user", ("a",)), Message("assistant", ("b",)))
    with pytest.raises(DataError, match="a: has other turns before its prompt"):
        together([made("a", "x", before=several), made("b", "y", before=several)])


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("1. red\n2. blue\n3. green", ["red", "blue", "green"]),
        ("1) red\n 2: a\nb\n\n3.green ", ["red", "a\nb", "green"]),
        ("Sure:\n1. red\n3. green", ["red", "", "green"]),
        (
            "1. red\n2. 7\n1. again\n3. x",
            ["red", "7\n1. again", "x"],
        ),  # numbers that are not next are part of an answer
        ("1. red\n2.\n3.5\n3. x", ["red", "3.5", "x"]),
        ("red\nblue", ["", "", ""]),
        ("3. green\n1. red", ["red", "", ""]),  # the numbers go up
        ("1. 2. red\n2.\n3. 3.5", ["2. red", "", "3.5"]),
        ("10. red\n12. blue", ["", "", ""]),
        ("", ["", "", ""]),
    ],
)
def test_answers_are_told_apart_by_their_numbers(said: str, found: list[str]) -> None:
    assert apart(said, 3) == found
    assert apart(said, 1) == [said]


class Model:
    """Echoes the word after each number that it is asked, in the form of ``answer``; counts tokens as letters."""

    def __init__(self, answer: str, longest: int = 10_000) -> None:
        self.answer, self.longest = answer, longest
        self.asked: list[tuple[str, int]] = []
        self.encoder = SimpleNamespace(encode=self.encode, encode_all=self.encode_all)

    def encode(self, sample: Sample) -> SimpleNamespace:
        if len(sample.prompt) > self.longest:
            raise SampleTooLongError("has too many letters", item=sample.id)
        return SimpleNamespace(id=sample.id, input_ids=torch.zeros(len(sample.prompt) + len(sample.answer)))

    def encode_all(self, samples, *, on_error):
        return [self.encode(sample) for sample in samples], []

    def generate(self, samples, *, max_new_tokens, batch_size, progress=""):
        self.asked += [(sample.id, max_new_tokens) for sample in samples]
        found = [re.findall(r"^(\d+)\. (\S+)$", sample.prompt, re.MULTILINE) for sample in samples]
        return [
            "\n".join(self.answer.format(*pair) for pair in pairs) or sample.prompt
            for sample, pairs in zip(samples, found, strict=True)
        ]

    def flops(self, lengths):
        return float(sum(lengths))


def echo(n: int, metric: str = "exact_match") -> TaskDataset:
    samples = tuple(Sample.from_instruction(f"s{i}", f"word{i}", f"word{i}", task="t") for i in range(n))
    return TaskDataset("t", "skill", (), samples, metric, 5)


def test_a_task_is_scored_sample_by_sample() -> None:
    model = Model("{0}. {1}")
    result = evaluate_task(model, echo(5), nll=False, prompts_together=2)  # pyright: ignore[reportArgumentType]
    assert model.asked == [("s0 + s1", 26), ("s2 + s3", 26), ("s4", 26)]
    assert (result.score, result.n, result.n_unparsable) == (1.0, 5, 0)
    assert result.predictions["prediction"].to_pylist() == [f"word{i}" for i in range(5)]
    header = len(HEADER) + 2 * len("\n1. word0") + len("1. word0\n2. word0")
    assert result.flops == 2 * header + 10
    (single,) = evaluate_stream(model, [echo(5)], nll=False)  # pyright: ignore[reportArgumentType]
    assert model.asked[3:] == [(f"s{i}", 5) for i in range(5)] and single.flops == 50


def test_answers_without_a_number_are_unparsable() -> None:
    result = evaluate_task(Model("{1}"), echo(5), nll=False, prompts_together=2)  # pyright: ignore[reportArgumentType]
    assert (result.score, result.n_unparsable) == (0.2, 4)  # the last one was asked alone
    assert result.predictions["prediction"].to_pylist() == ["", "", "", "", "word4"]


def test_prompts_that_do_not_fit_together_name_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"s0 \+ s1: these do not fit(.|\n)*lower evaluation\.prompts_together"):
        evaluate_task(Model("", longest=20), echo(4), prompts_together=2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="prompts_together: must be >= 1, got 0"):
        evaluate_task(Model(""), echo(4), prompts_together=0)  # pyright: ignore[reportArgumentType]
