"""The one record type that every layer speaks: a conversation with pictures and the answer to learn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Image:
    """A reference to a picture: a file on disk or encoded bytes (PNG, JPEG, WebP). Nothing is decoded here."""

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise ValueError("an Image has either a path or data")

    def read(self) -> bytes:
        """The encoded bytes."""
        return self.data if self.data is not None else self.path.read_bytes()  # pyright: ignore[reportOptionalMemberAccess]

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the encoded bytes: the picture's identity in caches."""
        return hashlib.sha256(self.read()).hexdigest()


Part = str | Image


@dataclass(frozen=True)
class Message:
    """One turn. ``parts`` keeps text and pictures in reading order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))


@dataclass(frozen=True)
class Sample:
    """One training or test record.

    ``messages`` is everything before the final answer and ends with a user turn; earlier assistant turns are part of
    it and are trained on as well. ``id`` is stable across runs and keys every decision and score. ``group`` names the
    underlying item: samples of one group are near-duplicates by construction.
    """

    id: str
    messages: tuple[Message, ...]
    answer: str
    task: str
    skill: str = ""
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for message in self.messages for image in message.images)

    @property
    def prompt(self) -> str:
        """The text of all turns before the answer, one turn a line; for display and for text statistics."""
        return "\n".join(message.text for message in self.messages if message.text)

    @classmethod
    def from_instruction(
        cls, id: str, instruction: str, answer: str, *, images: Iterable[Image] = (), task: str, **rest: Any
    ) -> Sample:
        """A single-turn sample: the pictures, then the instruction."""
        return cls(id, (Message("user", (*images, instruction)),), answer, task, **rest)
