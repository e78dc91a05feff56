from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptinf.errors import DataError
from adaptinf.evaluation.routing import auroc, confusion, expected_calibration_error, oracle_gap, roc, routing_accuracy


def test_accuracy_and_confusion() -> None:
    true, routed = ["a", "a", "b", "x", "b"], ["a", "b", None, None, "b"]
    assert routing_accuracy(true, routed) == 2 / 5  # abstaining is not arriving
    assert confusion(true, routed, ["a", "b"]) == {
        "a": {"a": 1, "b": 1, "base": 0},
        "b": {"a": 0, "b": 1, "base": 1},
        "base": {"a": 0, "b": 0, "base": 1},
    }
    assert np.isnan(routing_accuracy([], []))
    with pytest.raises(DataError, match="2 and 1 entries"):
        routing_accuracy(["a", "b"], ["a"])


def test_calibration_error_by_hand() -> None:
    # (0, 0.5] holds 0.5 and 0.3, both wrong: |0.8 - 0| / 4; (0.5, 1] holds 0.9, right, and 0.7, wrong: |1.6 - 1| / 4
    assert expected_calibration_error([0.5, 0.3, 0.9, 0.7], [0, 0, 1, 0], bins=2) == pytest.approx(0.2 + 0.15)
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0
    assert np.isnan(expected_calibration_error([], []))
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        expected_calibration_error([1.2], [1])


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores, positive = [score for score, _ in rows], [wanted for _, wanted in rows]
    pairs = [(s > t) + (s == t) / 2 for s, p in rows if p for t, q in rows if not q]
    found = auroc(scores, positive)
    if not pairs:
        assert np.isnan(found)
        return
    assert found == pytest.approx(np.mean(pairs))
    false, true = roc(scores, positive)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    area = (np.diff(false) * (true[1:] + true[:-1]) / 2).sum()
    assert area == pytest.approx(found)


def test_what_is_refused() -> None:
    for scores, labels in (([1.0, 2.0], [1]), ([np.nan], [1]), ([1.0], [2]), ([[1.0]], [[1]])):
        with pytest.raises(DataError):
            auroc(scores, labels)


def test_oracle_gap() -> None:
    assert oracle_gap([0.4, 0.5], [0.5, 0.5]) == pytest.approx({"gap": 0.05, "share": 90.0})
    assert np.isnan(oracle_gap([0.0], [0.0])["share"])
