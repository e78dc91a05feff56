"""The released code's formulas, against their description in section 2 of the method's notes."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptinf.errors import BudgetError
from adaptinf.selection import released, water_fill


def literal_water_fill(sizes: list[int], budget: int) -> list[int]:
    """Section 2.5, sentence by sentence."""
    k = len(sizes)
    share = math.ceil(budget / k)
    if min(sizes) * k >= budget:
        return [share for _ in sizes]
    result = {}
    waiting = sorted(range(k), key=sizes.__getitem__)
    while waiting:
        i = waiting.pop(0)
        result[i] = min(sizes[i], share)
        if sizes[i] < share:
            share = share + math.ceil((share - sizes[i]) / len(waiting))
    return [result[i] for i in range(k)]


def literal_ccs(scores: list[float], budget: int, rng: random.Random, bins: int = 50) -> list[int]:
    """Section 2.6, sentence by sentence: one pass from high to low over half-open bins."""
    ordered = sorted(scores)
    low, high = ordered[int(0.05 * len(scores))], ordered[int(0.95 * len(scores))]
    width = (high - low) / bins
    right, share, rest, chosen = high, math.ceil(budget / bins), budget, []
    for done in range(bins):
        left = right - width
        candidates = [i for i, s in enumerate(scores) if left < s <= right]
        if len(candidates) < share:
            chosen += candidates
            rest -= len(candidates)
            if done < bins - 1:
                share = math.ceil(rest / (bins - done - 1))
        else:
            chosen += rng.sample(candidates, share)
            rest -= share
        right = left
    return chosen


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=14), st.integers(1, 4000))
def test_budgets_sentence_by_sentence(sizes: list[int], budget: int) -> None:
    try:
        expected = literal_water_fill(sizes, budget)
    except ZeroDivisionError:
        with pytest.raises(BudgetError, match="rounded-up shares"):
            released.water_fill(sizes, budget)
    else:
        assert released.water_fill(sizes, budget) == expected


def test_budgets_overshoot_where_the_exact_ones_do_not() -> None:
    """The notes measured 25,000 -> 25,014 and 100,000 -> 100,012 on sizes they do not give; these overshoot alike."""
    for budget, total, sizes in (
        (25_000, 25_014, [676, 1648, 2553, 2653, 5293, 5678, 6672, 9578, 11580, 11792]),
        (100_000, 100_012, [1629, 4725, 4980, 5320, 10688, 17009, 24318, 25730, 26203, 27818]),
    ):
        assert sum(released.water_fill(sizes, budget)) == total
        assert sum(water_fill(sizes, budget)) == budget


@pytest.mark.parametrize("budget", [10, 120, 500, 1500, 1990])
@pytest.mark.parametrize("seed", range(3))
def test_sampling_sentence_by_sentence(budget: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=2000)
    drawn = released.ccs_sample(scores, budget, random.Random(seed))
    assert drawn.chosen.tolist() == literal_ccs(scores.tolist(), budget, random.Random(seed))


@pytest.mark.parametrize(("budget", "taken"), [(10, 50), (120, 150)])
def test_small_budgets_overshoot(budget: int, taken: int) -> None:
    scores = np.random.default_rng(0).normal(size=20_000)
    assert len(released.ccs_sample(scores, budget, random.Random(0)).chosen) == taken


@pytest.mark.parametrize(("budget", "taken"), [(15_000, 14_014), (19_000, 16_657)])
def test_large_budgets_fall_short(budget: int, taken: int) -> None:
    """The spread over 40 Gaussian samples of 20,000 is 57 and 75, so four of them."""
    scores = np.random.default_rng(0).normal(size=20_000)
    assert len(released.ccs_sample(scores, budget, random.Random(0)).chosen) == pytest.approx(taken, abs=300)


def test_both_tails_are_out_of_reach() -> None:
    scores = np.random.default_rng(0).permutation(1000).astype(float)
    drawn = released.ccs_sample(scores, 1000, random.Random(0))
    assert sorted(scores[drawn.chosen]) == list(range(51, 951))
    assert (drawn.bin[(scores <= 50) | (scores > 950)] == -1).all()


def test_a_constant_score_yields_nothing() -> None:
    assert len(released.ccs_sample(np.full(100, 2.0), 60, random.Random(0)).chosen) == 0


def test_integer_scores_fall_short() -> None:
    scores = np.round(np.random.default_rng(0).normal(size=20_000) * 5)
    assert len(released.ccs_sample(scores, 15_000, random.Random(0)).chosen) < 11_000


def test_a_negative_share_ends_the_sampling() -> None:
    """Two of each of the 40 high bins overdraw the budget by 20; the thin bin makes the share ceil(-21/9) = -2."""
    full = [*range(11, 51), *range(1, 10)]
    scores = np.array([*np.repeat(full, 40), 10, *np.zeros(120), *np.full(120, 50)], dtype=float)
    with pytest.raises(ValueError, match="negative"):
        literal_ccs(scores.tolist(), 60, random.Random(0))
    drawn = scores[released.ccs_sample(scores, 60, random.Random(0)).chosen]
    assert sorted(drawn) == sorted([10, *np.repeat(range(11, 51), 2)])
