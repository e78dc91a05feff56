"""Tables that a study writes into its document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def fill(document: Path, first: str, last: str, text: str) -> None:
    """Put ``text`` between the two marks, in place of what is there."""
    before, found, rest = document.read_text(encoding="utf-8").partition(first)
    _, ended, after = rest.partition(last)
    if not found or not ended:
        raise SystemExit(f"{document} has no place for the tables: put {first!r} and {last!r} into it")
    document.write_text(f"{before}{first}\n\n{text}\n{last}{after}", encoding="utf-8")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]
