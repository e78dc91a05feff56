"""Coverage-centric sampling of the ``paper`` preset."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from adaptinf.errors import BudgetError, ConfigError, NonFiniteError
from adaptinf.selection import ccs_sample
from adaptinf.selection.ccs import strata

scores_of_any_kind = hnp.arrays(
    np.float64,
    st.integers(1, 120),
    elements=st.one_of(st.floats(allow_infinity=False), st.sampled_from([0.0, 1.0, 1.0000000001, np.nan])),
)


def bin_counts(
    scores: np.ndarray, chosen: np.ndarray, bins: int, quantiles: tuple[float, float] = (0.05, 0.95)
) -> np.ndarray:
    """Independent strata: cut points by np.histogram over the order statistics."""
    ordered = np.sort(scores)
    low, high = (ordered[min(int(q * len(scores)), len(scores) - 1)] for q in quantiles)
    picked = scores[chosen]
    return np.histogram(picked[(picked >= low) & (picked <= high)], bins=bins, range=(low, high))[0]


@settings(deadline=None)
@given(scores_of_any_kind, st.data())
def test_exact_for_any_scores(scores: np.ndarray, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, len(scores)))
    bins = data.draw(st.integers(1, 60))
    chosen = ccs_sample(scores, budget, 3, bins=bins)
    assert chosen.dtype == np.int64
    assert len(chosen) == budget
    assert (np.diff(chosen) > 0).all()
    assert chosen.min() >= 0
    assert chosen.max() < len(scores)
    assert (ccs_sample(scores, budget, 3, bins=bins) == chosen).all()


@pytest.mark.parametrize("budget", [10, 120, 1000, 4000])
def test_budget_is_level_over_the_bins(budget: int) -> None:
    scores = np.random.default_rng(0).normal(size=5000)
    available = bin_counts(scores, np.arange(5000), 50)
    taken = bin_counts(scores, ccs_sample(scores, budget, 1), 50)
    assert taken.sum() == budget
    room = taken < available
    assert taken.max() <= taken[room].min() + 1


def test_tails_are_taken_only_when_the_bins_are_empty() -> None:
    scores = np.random.default_rng(0).permutation(1000).astype(float)
    body = np.flatnonzero((scores >= 50) & (scores <= 950))
    assert set(ccs_sample(scores, len(body), 0)) == set(body)
    chosen = ccs_sample(scores, len(body) + 30, 0)
    assert set(body) < set(chosen)
    extra = scores[np.setdiff1d(chosen, body)]
    assert (extra < 50).any()
    assert (extra > 950).any()


def test_undefined_scores_come_last() -> None:
    scores = np.arange(100.0)
    scores[::4] = np.nan
    assert not np.isnan(scores[ccs_sample(scores, 75, 0)]).any()
    assert np.isnan(scores[ccs_sample(scores, 80, 0)]).sum() == 5
    assert len(ccs_sample(np.full(7, np.nan), 4, 0)) == 4


def test_remainder_falls_on_random_bins() -> None:
    """Ten samples of fifty bins must not all be easy ones: over seeds every bin is hit about equally often."""
    scores = np.linspace(0, 1, 2000)
    hits = sum(bin_counts(scores, ccs_sample(scores, 10, seed), 50) for seed in range(400))
    assert stats.chisquare(hits).pvalue > 1e-4


def test_uniform_within_a_stratum() -> None:
    scores = np.zeros(40)
    hits = np.bincount(np.concatenate([ccs_sample(scores, 10, seed) for seed in range(400)]), minlength=40)
    assert stats.chisquare(hits).pvalue > 1e-4


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_permuting_the_input_permutes_the_choice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.lognormal(size=200)
    order = rng.permutation(200)
    assert set(scores[ccs_sample(scores, 60, 5)]) == set(scores[order][ccs_sample(scores[order], 60, 5)])


def test_strata_of_hand_made_scores() -> None:
    assert strata(np.array([0.0, 1, 2, 3, 4, np.nan]), 4, (0, 1)).tolist() == [0, 1, 2, 3, 3, 5]
    assert strata(np.array([7.0, 7, 7]), 4, (0.05, 0.95)).tolist() == [0, 0, 0]
    assert strata(np.array([-1.7e308, 0, 1.7e308]), 2, (0, 1)).tolist() == [0, 1, 1]
    twenty = strata(np.arange(20.0), 2, (0.05, 0.9))
    assert twenty.tolist() == [2] + [0] * 9 + [1] * 9 + [2]


def test_a_share_and_a_generator() -> None:
    scores = np.arange(50.0)
    assert len(ccs_sample(scores, 0.1, 0)) == 5
    rng = np.random.default_rng(9)
    assert (ccs_sample(scores, 20, rng) == ccs_sample(scores, 20, 9)).all()
    assert (ccs_sample(scores, 20, rng) != ccs_sample(scores, 20, 9)).any()


def test_bad_input() -> None:
    with pytest.raises(BudgetError):
        ccs_sample([1.0, 2.0], 3, 0)
    with pytest.raises(NonFiniteError, match="score 1"):
        ccs_sample([1.0, np.inf], 1, 0)
    with pytest.raises(ConfigError, match="quantiles"):
        ccs_sample([1.0, 2.0], 1, 0, quantiles=(0.9, 0.1))
    with pytest.raises(ConfigError, match="bins"):
        ccs_sample([1.0, 2.0], 1, 0, bins=0)
