"""JSON Lines, plain or gzipped: one record a line, read in constant memory whatever the file holds."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from adaptinf.data.images import ImageFolder
from adaptinf.data.quarantine import Quarantine
from adaptinf.data.records import RecordParser, RepeatedKeys, read_records
from adaptinf.data.sample import Sample
from adaptinf.errors import DataError, RecordError

MAX_LINE_BYTES = 8 * 2**20


def read_jsonl(
    path: Path,
    *,
    quarantine: Quarantine,
    images: ImageFolder,
    task: str = "",
    skill: str = "",
    ids: set[str] | None = None,
) -> Iterator[Sample]:
    """Records ``{"id", "task", "skill", "images", "instruction", "response", "group", "source", "meta"}``, one a line.

    Quarantined: a line over ``MAX_LINE_BYTES``, invalid UTF-8 or JSON, NaN and infinities, a repeated key, too deep
    nesting, a wrong type, an empty answer, a picture that cannot be shown, an id that stands on an earlier record.
    Blank lines are skipped. ``task`` and ``skill`` are for records that name none.

    Raises:
        DataError: the file cannot be opened, or its gzip stream is damaged (what follows could not be counted).
    """
    parser = RecordParser(images, task, skill)
    return read_records(read_lines(path), str(path), parser, quarantine, ids, decode=parse_line)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of every line that is not blank; one that is too long comes cut, one byte over the limit."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                rest = line
                while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                    rest = file.readline(MAX_LINE_BYTES + 1)
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if not line.isspace():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        place = f"{path}, after line {number}" if number else str(path)
        raise DataError(
            f"cannot be read ({error})", item=place, remedy="check the path, or fetch the file again"
        ) from error


def parse_line(line: bytes) -> Any:
    """The JSON value of one line. Raises RecordError."""
    if len(line) > MAX_LINE_BYTES:
        raise RecordError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    return parse_json(line)


def parse_json(data: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN, repeated keys marked, nesting bounded. Raises RecordError."""
    try:
        return json.loads(data.decode(), object_pairs_hook=RepeatedKeys.hook, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8 ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise RecordError("nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        raise RecordError(f"not JSON ({error})") from error


def _refuse_constant(name: str) -> NoReturn:
    raise RecordError(f"{name} is not JSON")
