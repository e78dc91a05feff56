"""Numbers, colours and the table for the terminal."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adaptinf.report import format_table, units
from adaptinf.report.colours import SERIES, categorical, contrast, heat, ink_on
from adaptinf.report.gallery import data_uri, excerpt
from adaptinf.report.tables import best_of, level_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00 s"), (9.994, "9.99 s"), (9.996, "10.0 s"), (99.94, "99.9 s"), (99.96, "1 min 40 s"),
        (119.7, "2 min 00 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 00 min"), (7260, "2 h 01 min"),
        (-3.2, "−3.20 s"), (None, "–"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_durations(value, text):
    assert units.duration(value).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 FLOP"), (1.5e3, "1.5 kFLOP"), (3.214e12, "3.21 TFLOP"), (9e20, "900 EFLOP"), (None, "–")]
)
def test_flops(value, text):
    assert units.flops(value).replace("\u00a0", " ") == text


def test_shares_and_differences():
    assert units.percent(0.7123).replace("\u00a0", " ") == "71.2 %"
    assert units.points(0.031) == "+3.1"
    assert units.points(-0.031) == "−3.1"
    assert units.points(-0.0001) == units.points(0.0) == "0.0"
    assert units.count(12345) == "12,345"
    assert [f(math.nan) for f in (units.percent, units.points, units.decimal, units.count)] == ["–"] * 4


def test_text_on_every_background_can_be_read():
    """WCAG 2 AA asks 4.5 of text; in the middle of a ramp neither black nor white reaches it."""
    for theme in ("light", "dark"):
        assert min(contrast(background, ink) for background, ink in heat(theme)) >= 4.2
    assert min(contrast(colour, ink_on(colour)) for n in (5, 10, 14, 30) for colour in categorical(n)) >= 4.2


@pytest.mark.parametrize("paper", ["#ffffff", "#1a1f26"])
def test_marks_stand_out_from_the_paper(paper):
    """WCAG 2 asks 3 of graphics; the palest series falls short on white, so marks also carry an outline or a number."""
    assert min(contrast(colour, paper) for colour in SERIES) >= 2.3


def _seen_with(colour: str, kind: str) -> np.ndarray:
    """CIELAB of a colour as a dichromat sees it (Viénot, Brettel and Mollon 1999), by linear RGB."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrices = {
        "normal": np.eye(3),
        "protan": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
        "deutan": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
    }
    seen = np.clip(matrices[kind] @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", ["normal", "protan", "deutan"])
def test_the_colours_differ_for_every_eye(kind):
    """In CIELAB, where 2.3 is just noticeable; the first four are those that curves are told apart by."""
    seen = [_seen_with(colour, kind) for colour in SERIES]
    apart = {(i, j): np.linalg.norm(a - b) for i, a in enumerate(seen) for j, b in enumerate(seen[:i])}
    assert min(apart.values()) > 15
    assert min(distance for (i, _), distance in apart.items() if i < 4) > 30


def test_best_of():
    nan = math.nan
    assert best_of([0.1, 0.3, 0.2], True) == {1}
    assert best_of([0.1, 0.3, 0.1], False) == {0, 2}
    assert (
        best_of([0.1, nan], True)
        == best_of([0.2, 0.2], True)
        == best_of([1, 2], None)
        == best_of([nan, nan], True)
        == set()
    )


def test_levels_span_the_scale():
    assert [level_of(x) for x in (-1, 0, 0.5, 1, 2)] == [0, 0, 5, 10, 10]


def test_pictures_are_known_by_their_first_bytes():
    assert data_uri(b"\x89PNG\r\n\x1a\n...").startswith("data:image/png;base64,")
    assert data_uri(b"\xff\xd8\xff\xe0").startswith("data:image/jpeg;base64,")
    assert data_uri(b"<svg/>") == data_uri(b"") == data_uri(None) == ""


def test_excerpts_end_at_a_word():
    assert excerpt("  short ", 20) == "short"
    assert excerpt("one two three four five", 20) == "one two three four…"
    assert excerpt("x" * 50, 20) == "x" * 19 + "…"


def test_the_table_for_the_terminal(make_run):
    a, b = make_run("random_replay", quality=0.7), make_run("paper", quality=0.9)
    lines = format_table([a.path, b.path]).splitlines()
    assert lines[0].split() == ["random_replay", "paper"]
    rows = {line[:40].rstrip(): line for line in lines}
    average = next(line for line in lines if line.startswith("Average accuracy"))
    assert average.split()[2:] == [
        f"{100 * a.metrics['average_accuracy']:.1f}",
        "%",
        f"{100 * b.metrics['average_accuracy']:.1f}",
        "%",
        "*",
    ]
    for j, task in enumerate(a.tasks):
        assert f"{100 * b.matrix[-1, j]:.1f} %" in next(
            line for line in lines if line.startswith(f"final score: {task}")
        )
    trained = next(line for line in lines if line.startswith("samples trained on"))
    assert trained.split()[3:] == [str(sum(run.n_selected)) for run in (a, b)]
    width = len(lines[1])
    assert len(rows) > 10
    assert all(len(line) <= width for line in lines)
    assert lines[1].strip("- ") == ""


def test_the_table_of_unfinished_and_hostile_runs(make_run):
    a = make_run("paper", arrows=3)
    b = make_run("b", strategy="日本語", tasks=("\x1b[31mred\nline", "other"), per_task=10)
    table = format_table([a.path, b.path])
    assert "paper, unfinished" in table
    assert "\x1b" not in table
    assert "\ufffd[31mred\ufffdline" in table
    assert format_table([a.path]).count("*") == 0
