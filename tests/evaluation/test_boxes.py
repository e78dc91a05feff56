from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptinf.errors import DataError
from adaptinf.evaluation import score
from adaptinf.evaluation.boxes import Box, iou, parse_box


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.302, 0.192, 0.605, 0.594]", (0.302, 0.192, 0.605, 0.594)),
        ("The cell is at [0.1,0.2,0.3,0.4].", (0.1, 0.2, 0.3, 0.4)),
        ("(1, 2, 3, 4)", (1, 2, 3, 4)),
        ("[ .5 , 0. , 1 , 1.5e0 ]", (0.5, 0, 1, 1.5)),
        ("[-1, -1, 0, 0]", (-1, -1, 0, 0)),
        ("[0, 0, 1, 1] or [5, 5, 6, 6]", (0, 0, 1, 1)),
        ("see [1, 2], then [1, 2, 3, 4]", (1, 2, 3, 4)),
        ("[1, 2, 3]", None),
        ("[1, 2, 3, 4, 5]", None),
        ("1, 2, 3, 4", None),
        ("[1 2 3 4]", None),
        ("[a, b, c, d]", None),
        ("[3, 2, 1, 4]", None),
        ("[1, 4, 3, 2]", None),
        ("[1, 1, 1, 2]", None),
        ("[0, 0, nan, 1]", None),
        ("[0, 0, 1e999, 1]", None),
        ("[0, 0, 1e200, 1e200]", None),
        ("[0, 0, 1e-200, 1e-200]", None),
        ("[1, 2, 3, 4", None),
        ("", None),
    ],
)
def test_parse(text, box):
    assert parse_box(text) == box


def test_parsing_hostile_text_is_fast():
    for text in ("[" + "1" * 100_000, "[" * 100_000, "[1," * 50_000, "[1" + " " * 20_000 + "x"):
        assert parse_box(text) is None


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0),
        ((0, 0, 4, 4), (1, 1, 3, 3), 4 / 16),
        ((0, 0, 3, 1), (0, 0, 1, 3), 1 / 5),
        ((-2, -2, 0, 0), (-1, -2, 1, 0), 2 / 6),
        ((0, 0, 1, 1), (5, 5, 6, 6), 0),
    ],
)
def test_iou_by_hand(a, b, expected):
    assert iou(Box(*a), Box(*b)) == pytest.approx(expected)


@st.composite
def cells(draw):
    x1, y1 = draw(st.integers(0, 18)), draw(st.integers(0, 18))
    return Box(x1, y1, draw(st.integers(x1 + 1, 20)), draw(st.integers(y1 + 1, 20)))


@given(cells(), cells())
def test_iou_against_counted_pixels(a, b):
    grid = np.zeros((2, 20, 20), bool)
    for layer, box in zip(grid, (a, b), strict=True):
        layer[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
    assert iou(a, b) == pytest.approx((grid[0] & grid[1]).sum() / (grid[0] | grid[1]).sum())
    assert iou(a, b) == iou(b, a)


@given(st.lists(st.floats(0, 1e3), min_size=4, max_size=4))
def test_what_python_prints_is_read(numbers):
    x1, y1, x2, y2 = numbers
    box = Box(x1, y1, x1 + x2 + 1, y1 + y2 + 1)
    assert parse_box(f"box: {list(box)}") == box


def test_the_metric_counts_unparsable_predictions_as_misses():
    reference = "[0, 0, 2, 2]"
    predictions = ["[0, 0, 2, 2]", "[0, 0, 2, 1.1]", "[0, 0, 2, 1]", "somewhere left", "[2, 2, 0, 0]"]
    references = [reference] * len(predictions)
    assert score("iou", predictions, references) == pytest.approx([1, 0.55, 0.5, 0, 0])
    assert score("iou@0.5", predictions, references).tolist() == [1, 1, 0, 0, 0]


def test_a_reference_without_a_box_is_an_error():
    with pytest.raises(DataError, match="holds no box"):
        score("iou@0.5", ["[0, 0, 1, 1]"], ["left"])
