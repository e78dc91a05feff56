"""Budgets: resolved against a pool, and water-filled exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptinf.errors import BudgetError
from adaptinf.selection import resolve_budget, water_fill

capacities = st.lists(st.integers(0, 30), max_size=12)


def pour(caps: list[int], budget: int) -> list[int]:
    """One unit at a time, always into the emptiest entry with room, the first of these."""
    filled = [0] * len(caps)
    for _ in range(budget):
        room = [i for i in range(len(caps)) if filled[i] < caps[i]]
        if not room:
            break
        filled[min(room, key=lambda i: (filled[i], i))] += 1
    return filled


@settings(deadline=None)
@given(capacities, st.integers(0, 400))
def test_equals_pouring_one_unit_at_a_time(caps: list[int], budget: int) -> None:
    assert water_fill(caps, budget) == pour(caps, budget)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**12), max_size=30), st.integers(0, 10**14))
def test_exact_and_fair_at_any_size(caps: list[int], budget: int) -> None:
    filled = water_fill(caps, budget)
    assert sum(filled) == min(budget, sum(caps))
    assert all(0 <= f <= c for f, c in zip(filled, caps, strict=True))
    open_levels = [f for f, c in zip(filled, caps, strict=True) if f < c]
    if open_levels:  # nobody holds more than one unit above an entry that still has room
        assert max(filled) <= min(open_levels) + 1


def test_remainder_goes_to_the_first_entries_with_room() -> None:
    assert water_fill([5, 1, 5, 5], 12) == [4, 1, 4, 3]
    assert water_fill([0, 0], 3) == [0, 0]
    assert water_fill([], 3) == []


def test_takes_numpy_numbers_and_returns_ints() -> None:
    filled = water_fill(np.array([3, 9, 2]), np.int64(9))  # pyright: ignore[reportArgumentType]
    assert filled == [3, 4, 2]
    assert all(type(f) is int for f in filled)


@pytest.mark.parametrize("bad", [-1, 1.5, float("nan"), float("inf"), True, "3", None])
def test_rejects_what_is_not_a_count(bad: object) -> None:
    with pytest.raises(BudgetError, match=r"capacities\[1\]"):
        water_fill([2, bad], 2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BudgetError, match="budget"):
        water_fill([2, 2], bad)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("budget", "n", "samples"),
    [(1, 7, 1), (7, 7, 7), (1.0, 7, 7), (0.5, 7, 4), (0.25, 10, 3), (1e-9, 7, 1), (np.int32(3), 7, 3)],
)
def test_whole_numbers_and_shares(budget: float, n: int, samples: int) -> None:
    assert resolve_budget(budget, n) == samples


@pytest.mark.parametrize("budget", [0, -1, 8, 0.0, -0.1, 1.5, float("nan"), float("inf"), True, "2", None])
def test_rejects_impossible_budgets(budget: object) -> None:
    with pytest.raises(BudgetError):
        resolve_budget(budget, 7)  # pyright: ignore[reportArgumentType]


def test_a_capacity_may_exceed_the_pool() -> None:
    assert resolve_budget(8, 7, capped=True) == 7
    with pytest.raises(BudgetError, match="empty"):
        resolve_budget(1, 0, capped=True)
