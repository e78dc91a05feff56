"""From one parsed record of any format to a ``Sample``: the checks that all readers share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from adaptinf.data.images import ImageFolder
from adaptinf.data.quarantine import Quarantine
from adaptinf.data.sample import Image, Message, Part, Role, Sample
from adaptinf.errors import RecordError

PLACEHOLDER = "<image>"
MAX_DEPTH = 32
COLUMNS = (
    "id", "task", "skill", "images", "image", "instruction", "input", "response", "conversations", "messages",
    "group", "source", "meta",
)  # fmt: skip
"""The names a record may have; others are ignored."""
_ROLES: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"
}  # fmt: skip


class RepeatedKeys(dict[str, Any]):
    """A JSON object in which a key stands twice: readable, but no one can say which value was meant."""

    @classmethod
    def hook(cls, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """For ``json.loads(object_pairs_hook=...)``."""
        plain = dict(pairs)
        return plain if len(plain) == len(pairs) else cls(plain)


@dataclass(frozen=True)
class RecordParser:
    """Checks one record and makes a ``Sample`` of it.

    A record has ``instruction`` and ``response``, or ``conversations`` / ``messages`` (turns with ``from`` and
    ``value``, or ``role`` and ``content``) that end with the answer. An ``input`` follows the instruction on a line of
    its own; even an empty one says where the instruction ends, which is then kept as ``meta["instruction"]``.
    ``images`` or ``image`` holds the pictures. Text places them by ``<image>``, in reading order; an instruction
    without a placeholder follows its pictures.

    Args:
        images: resolves and checks the pictures.
        task, skill: of records that do not say.
        columns: this schema's name -> the record's name of it, where they differ.
        need_id: a record without id is broken; otherwise the reader derives one.
    """

    images: ImageFolder
    task: str = ""
    skill: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    need_id: bool = True

    def __call__(self, record: Any) -> Sample:
        """Raises RecordError: says what is wrong with the record."""
        if not isinstance(record, Mapping):
            _broken(f"a record is an object, not {type(record).__name__}")
        if isinstance(record, RepeatedKeys):
            _broken("a key stands twice in the record")
        get = self._getter(record)
        turns = next((value for key in ("conversations", "messages") if (value := get(key)) is not None), None)
        images = self._images(get("images") if get("images") is not None else get("image"))
        if turns is None:
            instruction, answer = _text(get("instruction"), "instruction"), _text(get("response"), "response")
            input_ = get("input")
            said = {} if input_ is None else {"instruction": instruction.replace(PLACEHOLDER, "").strip("\n")}
            prompt = "\n".join(filter(None, (instruction, _optional(input_, "input"))))
            messages = (Message("user", _place(prompt, images, leading=True)),)
        else:
            said = {}
            messages, answer = _conversation(turns, images)
        if not answer.strip():
            _broken("the answer is empty")
        if PLACEHOLDER in answer:
            _broken(f"the answer contains {PLACEHOLDER}")
        if not any(message.images or message.text.strip() for message in messages if message.role == "user"):
            _broken("the instruction is empty and there is no picture")
        task = _optional(get("task"), "task") or self.task
        if not task:
            _broken("no task: the record has none and no default is set")
        return Sample(
            id=self._id(get("id")),
            messages=messages,
            answer=answer,
            task=task,
            skill=_optional(get("skill"), "skill") or self.skill,
            group=_optional(get("group"), "group"),
            meta={**_meta(get("meta"), get("source")), **said},
        )

    def id_of(self, record: Any) -> str | None:
        """The id that a record, broken or not, carries."""
        found = record.get(self.columns.get("id", "id")) if isinstance(record, Mapping) else None
        return str(found) if isinstance(found, (str, int)) else None

    def _getter(self, record: Mapping[str, Any]) -> Callable[[str], Any]:
        return lambda key: record.get(self.columns.get(key, key))

    def _id(self, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        identity = _optional(value, "id")
        if self.need_id and not identity.strip():
            _broken("no id")
        return identity

    def _images(self, value: Any) -> tuple[Image, ...]:
        if value is None or value == "":
            return ()
        many = value if isinstance(value, (list, tuple)) else [value]
        return tuple(self.images.image(one) for one in many)


def read_records(
    raw: Iterable[tuple[int, Any]],
    file: str,
    parser: RecordParser,
    quarantine: Quarantine,
    ids: set[str] | None,
    *,
    decode: Callable[[Any], Any] = lambda record: record,
) -> Iterator[Sample]:
    """Yield the good samples of ``(line, raw record)`` pairs; the broken ones go to the quarantine.

    ``ids`` are those already taken and grow. Where the parser needs no id, a missing one is made of task, content and
    position, and one that is taken gets the content's digest appended (published LLaVA files repeat the picture's id);
    where it does, both are broken records.
    """
    ids = set() if ids is None else ids
    for line, record in raw:
        quarantine.seen += 1
        try:
            record = decode(record)
            sample = parser(record)
            if not parser.need_id:
                sample = _with_id(sample, line, ids)
            if sample.id in ids:
                _broken("the id stands on an earlier record as well")
        except RecordError as error:
            reason = f"{error.item}: {error.problem}" if error.item else error.problem
            quarantine.add(file, line, reason, parser.id_of(record))
            continue
        ids.add(sample.id)
        yield sample


def content_digest(sample: Sample) -> str:
    """sha256 (hex) over what a model is shown: roles, texts, the pictures' bytes, and the answer; not the id."""
    turns = [
        [turn.role, [part if isinstance(part, str) else [part.sha256] for part in turn.parts]]
        for turn in sample.messages
    ]
    return hashlib.sha256(json.dumps([turns, sample.answer]).encode()).hexdigest()


def _with_id(sample: Sample, line: int, ids: set[str]) -> Sample:
    if not sample.id:
        position = hashlib.sha256(f"{content_digest(sample)} {line}".encode()).hexdigest()
        return replace(sample, id=f"{sample.task}-{position[:16]}")
    return replace(sample, id=f"{sample.id}-{content_digest(sample)[:16]}") if sample.id in ids else sample


def _conversation(turns: Any, images: Sequence[Image]) -> tuple[tuple[Message, ...], str]:
    if not isinstance(turns, (list, tuple)) or not turns:
        _broken("the conversation is not a list of turns")
    spoken = [_turn(turn) for turn in turns]
    roles = [role for role, _ in spoken]
    talk = roles[1:] if roles[0] == "system" else roles
    if not talk or talk != ["user", "assistant"] * (len(talk) // 2):
        _broken(f"turns must go human, gpt, human, gpt ... after an optional system turn; here {', '.join(roles[:6])}")
    *before, (_, answer) = spoken
    if any(PLACEHOLDER in text for role, text in before if role == "assistant"):
        _broken(f"an answer contains {PLACEHOLDER}")
    n_places = sum(text.count(PLACEHOLDER) for _, text in before)
    if n_places != len(images):
        _broken(_miscounted(n_places, len(images)))
    rest, messages = list(images), []
    for role, text in before:
        here = [rest.pop(0) for _ in range(text.count(PLACEHOLDER))]
        messages.append(Message(role, _place(text, here)))
        if role != "system" and not messages[-1].parts:
            _broken(f"a {role} turn is empty")
    return tuple(messages), answer


def _turn(turn: Any) -> tuple[Role, str]:
    if not isinstance(turn, Mapping) or isinstance(turn, RepeatedKeys):
        _broken("a turn is not an object with a speaker and a text")
    speaker = turn.get("from", turn.get("role"))
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        _broken(f"unknown speaker {speaker[:40]!r}" if isinstance(speaker, str) else "a turn has no speaker")
    content = turn.get("value", turn.get("content"))
    if isinstance(content, (list, tuple)):
        content = "".join(_content_part(part) for part in content)
    return role, _text(content, "a turn's text")


def _content_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("text", "image"):
        _broken("a part of a turn has a type other than text and image")
    return PLACEHOLDER if kind == "image" else _text(part.get("text"), "a turn's text")


def _place(text: str, images: Sequence[Image], *, leading: bool = False) -> tuple[Part, ...]:
    """Pictures at their placeholders; a line break beside a placeholder belongs to it (LLaVA's convention)."""
    texts = text.split(PLACEHOLDER)
    if leading and len(texts) == 1:
        return (*images, text) if text else tuple(images)
    if len(texts) - 1 != len(images):
        _broken(_miscounted(len(texts) - 1, len(images)))
    parts: list[Part] = []
    for index, piece in enumerate(texts):
        if index:
            parts.append(images[index - 1])
            piece = piece.removeprefix("\n")
        if index < len(images):
            piece = piece.removesuffix("\n")
        if piece:
            parts.append(piece)
    return tuple(parts)


def _miscounted(places: int, images: int) -> str:
    return f"{places} {PLACEHOLDER} placeholders, {images} pictures"


def _meta(meta: Any, source: Any) -> dict[str, Any]:
    if meta is None:
        meta = {}
    if not isinstance(meta, Mapping):
        _broken("meta is not an object")
    merged = {**meta, "source": source} if source is not None else dict(meta)
    _check_nesting(merged)
    try:
        json.dumps(merged, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError) as error:  # NaN, infinity, a lone surrogate, a value JSON has no form for
        _broken(f"meta cannot be kept as JSON ({error})")
    return merged


def _check_nesting(value: Any) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(one, RepeatedKeys) for one in layer):
            _broken("a key stands twice in meta")
        layer = [
            inner
            for outer in layer
            if isinstance(outer, (Mapping, list, tuple))
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
        if not layer:
            return
    _broken(f"meta is nested deeper than {MAX_DEPTH} levels")


def _optional(value: Any, name: str) -> str:
    return "" if value is None else _text(value, name)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        _broken(f"{name} is missing" if value is None else f"{name} is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        _broken(f"{name} holds a lone surrogate, which is no character")
    return value


def _broken(reason: str) -> NoReturn:
    raise RecordError(reason)
