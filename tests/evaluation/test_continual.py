from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptinf.errors import DataError
from adaptinf.evaluation import continual_metrics
from adaptinf.store import write_json

NAN = float("nan")


def lower_triangle(rows):
    return [row + [NAN] * (len(rows) - len(row)) for row in rows]


UCIT = lower_triangle(
    [
        [90.97],
        [90.38, 92.6],
        [73.9, 86.33, 59.54],
        [75.67, 68.77, 47.34, 53.3],
        [75.1, 74.53, 46.73, 52.3, 69.73],
        [65.77, 71.27, 45.05, 51.2, 49.6, 57.47],
    ]
)
"""A user's LoRA run on UCIT: ImageNet-R, ArxivQA, VizWiz, IconQA, CLEVR, Flickr (MCITlib issue 6)."""


def test_the_published_matrix_gives_the_published_metrics():
    found = continual_metrics(UCIT)
    published = {
        "mean_fine_tune_accuracy": 70.602,
        "average_accuracy": 56.727,
        "mean_average_accuracy": 72.899,
        "backward_transfer": -16.650,
        "backward_transfer_over_T": -13.875,
        "forgetting": 16.650,
        "forgetting_avalanche": 16.650,
    }
    assert {key: found[key] for key in published} == pytest.approx(published, abs=5e-4)
    assert found["worst_task"] == 45.05
    for key in ("forward_transfer", "forward_transfer_single_task", "relative_gain", "zero_shot_average", "joint_gap"):
        assert math.isnan(found[key]), key


def test_a_matrix_worked_out_by_hand():
    # Task 2 is best after stage 2, task 1 after stage 1; task 1 loses 0.4, task 2 gains, then loses 0.1.
    matrix = [[0.8, 0.2, 0.1], [0.6, 0.5, 0.3], [0.4, 0.4, 1.0]]
    found = continual_metrics(
        matrix,
        zero_shot=[0.2, 0.1, 0.2],
        single_task=[0.8, 0.8, 0.8],
        joint=[1.0, 0.5, 0.5],
        reference=[0.5, 0.5, 2.0],
        weights=[1, 2, 1],
    )
    expected = {
        "average_accuracy": 0.6,
        "weighted_average_accuracy": (0.4 + 0.8 + 1.0) / 4,
        "worst_task": 0.4,
        "mean_average_accuracy": (0.8 + 0.55 + 0.6) / 3,
        "mean_fine_tune_accuracy": (0.8 + 0.5 + 1.0) / 3,
        "backward_transfer": (-0.4 - 0.1) / 2,
        "backward_transfer_over_T": -0.5 / 3,
        "forgetting": 0.25,
        "forgetting_avalanche": 0.25,
        "forgetting_percent": 100 * (0.5 + 0.2) / 2,
        "forward_transfer": ((0.2 - 0.1) + (0.3 - 0.2)) / 2,
        "forward_transfer_over_T": 0.2 / 3,
        "forward_transfer_single_task": (0.0 - 0.3 + 0.2) / 3,
        "relative_gain": 100 * (0.8 + 0.8 + 0.5) / 3,
        "relative_gain_learned": 100 * (0.5 + 0.8 + 1.0) / 3,
        "relative_gain_zero_shot": 100 * (2 + 4 + 5) / 3,
        "relative_gain_single_task": 100 * (0.5 + 0.5 + 1.25) / 3,
        "relative_gain_joint": 100 * (0.4 + 0.8 + 2.0) / 3,
        "relative_change_zero_shot": 100 * (1 + 3 + 4) / 3,
        "zero_shot_average": 0.5 / 3,
        "gain_over_zero_shot": 0.6 - 0.5 / 3,
        "single_task_gap": 0.2,
        "joint_gap": 2 / 3 - 0.6,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["average_accuracy_per_stage"] == pytest.approx([0.8, 0.55, 0.6])
    assert found["forgetting_per_task"] == pytest.approx([0.4, 0.1])
    assert found["relative_gain_per_stage"] == pytest.approx([160, 100 * (1.2 + 1.0) / 2, 70])
    assert set(found) == {*expected, "average_accuracy_per_stage", "forgetting_per_task", "relative_gain_per_stage"}


def test_forgetting_looks_for_the_best_stage_since_the_task_was_learned():
    # Task 1 peaks at stage 2, task 2 was better before it was learned (which is no achievement of its stage).
    found = continual_metrics([[0.5, 0.9, 0.0], [0.7, 0.6, 0.0], [0.6, 0.6, 0.5]])
    assert found["forgetting_per_task"] == pytest.approx([0.1, 0.0])
    assert found["backward_transfer"] == pytest.approx((0.1 + 0.0) / 2)
    assert found["forgetting_avalanche"] == pytest.approx(-0.05)


def test_a_task_that_was_never_known_is_not_forgotten():
    assert continual_metrics([[0.0, 0.0], [0.0, 0.5]])["forgetting_percent"] == 0
    assert continual_metrics([[0.0, 0.0], [0.3, 0.5]])["forgetting_percent"] == 0


def test_a_reference_that_is_not_positive_gives_no_ratio():
    found = continual_metrics([[0.5, 0], [0.5, 0.5]], zero_shot=[0.0, 0.5], reference="zero_shot")
    assert math.isnan(found["relative_gain"])
    assert found["relative_gain_learned"] == pytest.approx(100)


@pytest.mark.parametrize("name", ["learned", "zero_shot", "single_task", "joint"])
def test_the_reference_is_chosen_by_name_or_given(name):
    vectors = {"zero_shot": [0.1, 0.2], "single_task": [0.6, 0.7], "joint": [0.8, 0.9]}
    matrix = [[0.5, 0.3], [0.4, 0.6]]
    found = continual_metrics(matrix, **vectors, reference=name)
    given = continual_metrics(matrix, reference={**vectors, "learned": [0.5, 0.6]}[name])
    assert found["relative_gain"] == found[f"relative_gain_{name}"] == given["relative_gain"]
    assert found["relative_gain_per_stage"] == given["relative_gain_per_stage"]


def oracle(R, Z, S, B):
    """The definitions, written with 1-based loops over a dictionary of cells."""
    T = len(R)
    cell = {(i, j): R[i - 1][j - 1] for i in range(1, T + 1) for j in range(1, T + 1)}
    tasks = range(1, T + 1)
    out = {
        "average_accuracy": sum(cell[T, j] for j in tasks) / T,
        "mean_average_accuracy": sum(sum(cell[i, j] for j in range(1, i + 1)) / i for i in tasks) / T,
        "mean_fine_tune_accuracy": sum(cell[j, j] for j in tasks) / T,
        "backward_transfer": sum(cell[T, j] - cell[j, j] for j in range(1, T)) / (T - 1),
        "backward_transfer_over_T": sum(cell[T, j] - cell[j, j] for j in range(1, T)) / T,
        "forward_transfer": sum(cell[j - 1, j] - Z[j - 1] for j in range(2, T + 1)) / (T - 1),
        "forward_transfer_single_task": sum(cell[j, j] - S[j - 1] for j in tasks) / T,
        "relative_gain": sum(cell[T, j] / B[j - 1] for j in tasks) / T * 100,
    }
    best = {j: max(cell[i, j] for i in range(j, T)) for j in range(1, T)}
    out["forgetting"] = sum(best[j] - cell[T, j] for j in best) / (T - 1)
    out["forgetting_percent"] = 100 * sum(max(0, best[j] - cell[T, j]) / best[j] for j in best) / (T - 1)
    return out


@st.composite
def streams(draw, low=0.01):
    T = draw(st.integers(2, 7))
    numbers = st.floats(low, 100)
    row = st.lists(numbers, min_size=T, max_size=T)
    return [draw(st.lists(row, min_size=T, max_size=T)), draw(row), draw(row), draw(row)]


@given(streams())
def test_against_loops(stream):
    R, Z, S, B = stream
    expected = oracle(R, Z, S, B)
    found = continual_metrics(R, zero_shot=Z, single_task=S, reference=B)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(streams(), st.floats(-50, 50), st.floats(0.1, 10))
def test_shift_and_scale(stream, shift, scale):
    R, Z, S, _ = stream
    before = continual_metrics(R, zero_shot=Z, single_task=S)
    moved = continual_metrics(np.add(R, shift), zero_shot=np.add(Z, shift), single_task=np.add(S, shift))
    larger = continual_metrics(
        np.multiply(R, scale), zero_shot=np.multiply(Z, scale), single_task=np.multiply(S, scale)
    )
    for key in (
        "backward_transfer",
        "forgetting",
        "forward_transfer",
        "forward_transfer_single_task",
        "single_task_gap",
    ):
        assert moved[key] == pytest.approx(before[key], abs=1e-9)
        assert larger[key] == pytest.approx(scale * before[key], rel=1e-9, abs=1e-9)
    for key in ("average_accuracy", "mean_average_accuracy", "mean_fine_tune_accuracy", "worst_task"):
        assert moved[key] == pytest.approx(before[key] + shift, abs=1e-9)
    for key in ("relative_gain_learned", "relative_gain_zero_shot", "forgetting_percent"):
        assert larger[key] == pytest.approx(before[key], rel=1e-9, abs=1e-9)
    assert before["forgetting"] >= before["forgetting_avalanche"] - 1e-9


@settings(max_examples=25)
@given(streams(), st.data())
def test_an_unmeasured_score_makes_exactly_the_metrics_that_read_it_nan(stream, data):
    R, Z, S, B = (np.array(part) for part in stream)
    T = len(R)
    i, j = data.draw(st.integers(0, T - 1)), data.draw(st.integers(0, T - 1))
    known = {"zero_shot": Z, "single_task": S, "reference": B}
    before = continual_metrics(R, **known)
    hole, up, down = R.copy(), R.copy(), R.copy()
    hole[i, j], up[i, j], down[i, j] = NAN, R.max() + 1000, R.min() / 1000
    holed, moved = continual_metrics(hole, **known), [continual_metrics(other, **known) for other in (up, down)]
    for key, value in before.items():
        reads = any(not np.array_equal(other[key], value, equal_nan=True) for other in moved)
        if reads:
            assert np.isnan(holed[key]).any(), key
        elif not np.isnan(holed[key]).any():
            assert np.array_equal(holed[key], value, equal_nan=True), key
    for key in ("average_accuracy", "worst_task"):
        assert math.isnan(holed[key]) == (i == T - 1)
    assert math.isnan(holed["backward_transfer"]) == (j < T - 1 and i in (j, T - 1))
    assert math.isnan(holed["forgetting"]) == (j < T - 1 and i >= j)
    assert math.isnan(holed["forward_transfer"]) == (i == j - 1)


def test_one_task():
    found = continual_metrics([[0.4]], zero_shot=[0.1], single_task=[0.5], reference="single_task")
    assert found["average_accuracy"] == found["mean_average_accuracy"] == found["mean_fine_tune_accuracy"] == 0.4
    assert found["relative_gain"] == pytest.approx(80)
    assert found["forgetting_per_task"] == []
    for key in (
        "backward_transfer",
        "backward_transfer_over_T",
        "forgetting",
        "forgetting_percent",
        "forward_transfer",
    ):
        assert math.isnan(found[key]), key


def test_an_unfinished_stream_counts_the_tasks_that_arrived():
    rng = np.random.default_rng(0)
    R, Z, S, w = rng.random((5, 5)), rng.random(5), rng.random(5), rng.random(5)
    part = continual_metrics(R[:3], zero_shot=Z, single_task=S, reference="single_task", weights=w)
    whole = continual_metrics(R[:3, :3], zero_shot=Z[:3], single_task=S[:3], reference="single_task", weights=w[:3])
    np.testing.assert_equal(part, whole)


def test_a_joint_run_measures_only_the_last_row():
    matrix = np.full((3, 3), NAN)
    matrix[2] = [0.3, 0.6, 0.9]
    found = continual_metrics(matrix, zero_shot=[0.1, 0.1, 0.1])
    assert found["average_accuracy"] == pytest.approx(0.6)
    assert found["gain_over_zero_shot"] == pytest.approx(0.5)
    assert math.isnan(found["mean_average_accuracy"])
    assert math.isnan(found["forgetting"])


def test_what_is_undefined_is_null_in_json(tmp_path):
    write_json(tmp_path / "metrics.json", continual_metrics(UCIT))
    read = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert read["forward_transfer"] is None
    assert read["relative_gain_per_stage"] == [None] * 6
    assert read["forgetting"] == pytest.approx(16.65)


@pytest.mark.parametrize(
    ("matrix", "arguments", "item"),
    [
        ([[1.0], [2.0]], {}, "matrix"),
        ([1.0, 2.0], {}, "matrix"),
        (np.zeros((0, 0)), {}, "matrix"),
        ([[1.0, 2.0], [3.0]], {}, "matrix"),
        ([["x"]], {}, "matrix"),
        ([[math.inf]], {}, "matrix"),
        ([[1.0]], {"zero_shot": [1.0, 2.0]}, "zero_shot"),
        ([[1.0]], {"single_task": [[1.0]]}, "single_task"),
        ([[1.0]], {"joint": 1.0}, "joint"),
        ([[1.0]], {"joint": [-math.inf]}, "joint"),
        ([[1.0]], {"reference": "best"}, "reference"),
        ([[1.0]], {"reference": [1.0, 1.0]}, "reference"),
        ([[1.0]], {"weights": [-1.0]}, "weights"),
        ([[1.0]], {"weights": [0.0]}, "weights"),
        ([[1.0]], {"weights": [NAN]}, "weights"),
    ],
)
def test_bad_input_is_named(matrix, arguments, item):
    with pytest.raises(DataError) as caught:
        continual_metrics(matrix, **arguments)
    assert caught.value.item == item
    assert caught.value.remedy
