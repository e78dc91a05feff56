"""LLaVA conversation files: a JSON list of ``{"id", "image", "conversations"}``, or one such object a line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaptinf.data.images import ImageFolder
from adaptinf.data.jsonl import parse_json, parse_line, read_lines
from adaptinf.data.quarantine import Quarantine
from adaptinf.data.records import RecordParser, read_records
from adaptinf.data.sample import Sample
from adaptinf.errors import DataError, RecordError


def read_llava(
    path: Path,
    *,
    quarantine: Quarantine,
    images: ImageFolder,
    task: str,
    skill: str = "",
    ids: set[str] | None = None,
) -> Iterator[Sample]:
    """Conversations with ``<image>`` in place; ``image`` is a path, a list of paths, or absent.

    The last gpt turn is the answer, earlier turns are messages. There must be as many placeholders as pictures.
    Numeric ids become strings; a missing one is made of task, content and position; a repeated one (published LLaVA
    files carry the picture's id) gets the content's digest appended.

    Raises:
        DataError: the file cannot be read, or is not one JSON list.
    """
    parser = RecordParser(images, task, skill, need_id=False)
    if ".jsonl" in path.suffixes:
        return read_records(read_lines(path), str(path), parser, quarantine, ids, decode=parse_line)
    return read_records(_read_list(path), str(path), parser, quarantine, ids)


def _read_list(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            records = parse_json(file.read())
    except (OSError, EOFError, zlib.error, RecordError) as error:
        raise DataError(f"cannot be read ({error})", item=str(path), remedy="the file must be one JSON list") from error
    if not isinstance(records, list):
        raise DataError("not a JSON list", item=str(path), remedy="give a list of conversations, or name it .jsonl")
    yield from enumerate(records, start=1)
