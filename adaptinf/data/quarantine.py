"""Where broken records go: counted, written to a file with their place and the reason, and bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from adaptinf.errors import DataError

_MAX_REASON = 500


@dataclass(frozen=True)
class Entry:
    """One broken record. ``line`` counts from 1: the line, or the record's position in a format without lines."""

    file: str
    line: int
    reason: str
    id: str | None = None


class Quarantine:
    """Collects broken records while a dataset is read.

    Args:
        file: JSON Lines file ``{"file", "line", "reason", "id"}``, rewritten by ``write``; ``None`` keeps them in
            memory only.
        max_bad_fraction: share of a dataset's records that may be broken.
    """

    def __init__(self, file: Path | None = None, *, max_bad_fraction: float = 0.01) -> None:
        self.file, self.max_bad_fraction = file, max_bad_fraction
        self.entries: list[Entry] = []
        self.seen = 0

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, file: str, line: int, reason: str, id: str | None = None) -> None:
        self.entries.append(Entry(file, line, reason[:_MAX_REASON], None if id is None else id[:_MAX_REASON]))

    @contextmanager
    def dataset(self, name: str) -> Iterator[None]:
        """Read one dataset inside; afterwards its share of broken records is checked.

        Raises:
            DataError: more than ``max_bad_fraction`` of the records were broken. The file is written first.
        """
        seen, bad = self.seen, len(self.entries)
        yield
        seen, entries = self.seen - seen, self.entries[bad:]
        if len(entries) > self.max_bad_fraction * seen:
            self.write()
            first = "".join(f"\n  {entry.file}:{entry.line}: {entry.reason}" for entry in entries[:3])
            where = f"see {self.file}; " if self.file else ""
            raise DataError(
                f"{len(entries)} of {seen} records are broken, more than max_bad_fraction = {self.max_bad_fraction}; "
                f"the first:{first}",
                item=name,
                remedy=f"{where}repair the records or raise data.max_bad_fraction",
            )

    def write(self) -> None:
        """Replace the file by all entries so far, as one atomic step."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(f".{self.file.name}.partial")
        lines = (json.dumps(asdict(entry), ensure_ascii=True) + "\n" for entry in self.entries)
        partial.write_text("".join(lines), encoding="ascii")
        os.replace(partial, self.file)
