"""One page about a de-duplication: how much went, how alike rows are, which rows stand for many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from adaptinf.report.page import render_page, write_page
from adaptinf.report.units import count, percent

BINS = (-1.0, 0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
"""Bounds of the cosines that are counted together; the last bin includes 1."""

SHOWN = 20
"""Rows with the most duplicates, and the largest clusters."""


@dataclass(frozen=True)
class Bar:
    """``share`` of the longest bar."""

    label: str
    value: str
    share: float


def build_dedup_report(table: pa.Table, title: str, rule: str, out: Path) -> Path:
    """Write the page of what ``adaptinf dedup`` found and return its place.

    Args:
        table: ``id``, ``cluster``, ``kept``, ``duplicate_of`` and ``max_similarity``, a row each.
        title: of the page.
        rule: what decided, in words.
        out: the HTML file.
    """
    kept = table["kept"].to_numpy()
    similarity = table["max_similarity"].to_numpy()
    cluster = table["cluster"].to_numpy()
    kinds = table["duplicate_of"].drop_null().value_counts().to_pylist()
    most = sorted(kinds, key=lambda kind: (-kind["counts"], kind["values"]))[:SHOWN]
    sizes = np.bincount(cluster)
    removed = np.bincount(cluster, weights=~kept)
    largest = np.argsort(-sizes, kind="stable")[:SHOWN].tolist()
    page = render_page(
        "dedup.html.j2",
        title=title,
        facts=[
            ("rows", count(len(table))),
            ("kept", f"{count(kept.sum())} ({percent(kept.mean()) if len(kept) else '-'})"),
            ("removed", count((~kept).sum())),
            ("removed by", rule),
            ("clusters", count(int(np.count_nonzero(sizes)))),
            ("rows with duplicates", count(len(kinds))),
        ],
        similarities=_histogram(similarity),
        kinds=_bars([(kind["values"], kind["counts"], count(kind["counts"])) for kind in most]),
        clusters=_bars(
            [
                (
                    f"cluster {number}",
                    int(sizes[number]),
                    f"{count(float(removed[number]))} of {count(int(sizes[number]))}",
                )
                for number in largest
            ]
        ),
    )
    return write_page(page, out)


def _histogram(similarity: np.ndarray) -> list[Bar]:
    found = similarity[~np.isnan(similarity)]
    counts = np.histogram(found, bins=BINS)[0]
    return _bars(
        [
            (f"{low:g} to {high:g}", int(number), count(number))
            for low, high, number in zip(BINS[:-1], BINS[1:], counts, strict=True)
        ]
    )


def _bars(rows: list[tuple[str, int, str]]) -> list[Bar]:
    longest = max((length for _, length, _ in rows), default=0) or 1
    return [Bar(label, value, length / longest) for label, length, value in rows]
