"""Where the instruction stands to its input."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from adaptinf.data.sample import Image, Message, Part, Sample
from adaptinf.data.stream import TaskDataset
from adaptinf.errors import DataError


def instructions_last(task: TaskDataset) -> TaskDataset:
    """The task with every sample's instruction behind its input; raises what ``instruction_last`` raises."""
    return replace(task, train=tuple(map(instruction_last, task.train)), test=tuple(map(instruction_last, task.test)))


def instruction_last(sample: Sample) -> Sample:
    """The sample with its instruction behind its input, on a line of its own (Post-Instruction).

    The instruction is ``meta["instruction"]``, with which the text of the one user turn begins; the input is what else
    the turn holds, pictures and the rest of the text without the white space around it, which also becomes
    ``meta["source_text"]`` where there is none. Nothing is guessed: a sample that does not name its instruction stays
    as it is if it is a picture followed by text, and is refused otherwise.

    Raises:
        DataError: the instruction is not named or does not begin the text, or there are several user turns.

    Source: "Instruction position matters in sequence generation with large language models" (arXiv:2308.12097).
    """
    at, turn = _user_turn(sample)
    instruction = sample.meta.get("instruction")
    if not instruction and turn.parts and isinstance(turn.parts[0], Image):
        return sample
    if not isinstance(instruction, str) or not instruction:
        _refuse(sample, "does not say which words of its prompt are the instruction")
    text = next((index for index, part in enumerate(turn.parts) if isinstance(part, str)), None)
    if text is None or not str(turn.parts[text]).startswith(instruction):
        _refuse(sample, f"its text does not begin with its instruction {instruction[:40]!r}")
    rest = str(turn.parts[text]).removeprefix(instruction).strip()
    parts: list[Part] = [*turn.parts[:text], *([rest] if rest else []), *turn.parts[text + 1 :]]
    if parts and isinstance(parts[-1], str):
        instruction = f"{parts.pop()}\n{instruction}"
    messages = (*sample.messages[:at], Message("user", (*parts, instruction)), *sample.messages[at + 1 :])
    meta = {"source_text": rest, **sample.meta} if rest else sample.meta
    return replace(sample, messages=messages, meta=meta)


def _user_turn(sample: Sample) -> tuple[int, Message]:
    turns = [(index, message) for index, message in enumerate(sample.messages) if message.role == "user"]
    if len(turns) != 1:
        _refuse(sample, f"has {len(turns)} user turns, and which one's end the instruction belongs to is not said")
    return turns[0]


def _refuse(sample: Sample, problem: str) -> NoReturn:
    raise DataError(
        problem,
        item=sample.id,
        remedy="give its record an `input` beside the instruction (empty where there is none), or meta.instruction; or "
        "leave data.instruction_position at given",
    )
