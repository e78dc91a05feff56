"""Several test inputs in one prompt, and their answers apart again (OverPrompt)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from adaptinf.data.sample import Message, Part, Sample
from adaptinf.errors import DataError

LABEL_TOKENS = 8
"""Room for the number before an answer and the line break behind it."""

_REQUEST = "Answer each of the {} inputs below. Begin each answer on a line of its own with the number of its input."


def together(samples: Sequence[Sample]) -> Sample:
    """One sample that asks for the answers of all, numbered from 1; a single one stays as it is.

    An instruction that all of them name (``meta["instruction"]``, at either end of their text) is written once, before
    the numbered inputs; otherwise each whole prompt is an input.

    Raises:
        DataError: a sample is a conversation of several turns, or their system turns differ.

    Source: OverPrompt (arXiv:2305.14973), of which the abstract alone was read: the wording is ours.
    """
    if len(samples) == 1:
        return samples[0]
    for sample in samples:
        before = sample.messages[:-1]
        if before != samples[0].messages[:-1] or any(message.role != "system" for message in before):
            raise DataError(
                "has other turns before its prompt, which cannot be asked together with others",
                item=sample.id,
                remedy="set evaluation.prompts_together to 1",
            )
    shared = _shared_instruction(samples)
    request = _REQUEST.format(len(samples))
    parts: list[Part] = [f"{shared}\n{request}" if shared else request]
    for number, sample in enumerate(samples, start=1):
        parts += [f"\n{number}. ", *(_without(part, shared) for part in sample.messages[-1].parts)]
    return Sample(
        id=" + ".join(sample.id for sample in samples),
        messages=(*samples[0].messages[:-1], Message("user", _joined(parts))),
        answer="\n".join(f"{number}. {sample.answer}" for number, sample in enumerate(samples, start=1)),
        task=samples[0].task,
    )


def apart(said: str, count: int) -> list[str]:
    """The answers to ``together(count samples)``: what follows ``1.``, ``2.``, ... (or ``1)``, ``1:``) at the beginning
    of a line and before no digit, up to the next of them. Empty for a number that does not come after those before it;
    a single answer is all of the text."""
    if count == 1:
        return [said]
    labels: list[tuple[int, int, int]] = []
    place = 0
    for number in range(1, count + 1):
        if label := re.compile(rf"^[ \t]*{number}[.):](?!\d)", re.MULTILINE).search(said, place):
            labels.append((number, label.start(), label.end()))
            place = label.end()
    found = {
        number: said[begin:end].strip()
        for (number, _, begin), (_, end, _) in pairwise([*labels, (count + 1, len(said), len(said))])
    }
    return [found.get(number, "") for number in range(1, count + 1)]


def _shared_instruction(samples: Sequence[Sample]) -> str:
    """Empty where they do not all name the same one, or one does not stand at an end of a sample's only text."""
    found = samples[0].meta.get("instruction")
    if not isinstance(found, str) or any(sample.meta.get("instruction") != found for sample in samples):
        return ""
    texts = [[part for part in sample.messages[-1].parts if isinstance(part, str)] for sample in samples]
    ends = all(len(text) == 1 and (text[0].startswith(found) or text[0].endswith(found)) for text in texts)
    return found if ends else ""


def _without(part: Part, instruction: str) -> Part:
    if not instruction or not isinstance(part, str):
        return part
    at_the_front = part.startswith(instruction)
    return (part.removeprefix(instruction) if at_the_front else part.removesuffix(instruction)).strip()


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Neighbouring texts as one."""
    joined: list[Part] = []
    for part in parts:
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)
