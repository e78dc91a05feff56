"""Choice of the scorer by histogram entropy, both conventions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adaptinf.errors import ConfigError, DataError, NoUsableScorerError
from adaptinf.selection import choose_scorer

RNG = np.random.default_rng(0)
GAUSS = RNG.normal(size=200_000)


def entropy_of(values: np.ndarray, **options: object) -> float:
    return choose_scorer({"x": values}, **options).entropies["x"]  # pyright: ignore[reportArgumentType]


def closed_form(distribution: stats.rv_frozen, bins: int) -> float:
    """Entropy of a standardised distribution's masses between edges over [-4, 4], the tails in the end bins."""
    edges = np.linspace(-4, 4, bins + 1)
    edges[[0, -1]] = -np.inf, np.inf
    mass = np.diff(distribution.cdf(edges * distribution.std() + distribution.mean()))
    mass = mass[mass > 0]
    return float(-(mass * np.log2(mass)).sum())


@pytest.mark.parametrize(
    "distribution",
    [stats.norm(), stats.norm(5, 1e-6), stats.expon(), stats.uniform(), stats.lognorm(1.0)],
    ids=["normal", "narrow", "exponential", "uniform", "log-normal"],
)
@pytest.mark.parametrize("bins", [49, 50, 7])
def test_paper_entropy_is_that_of_the_distribution(distribution: stats.rv_frozen, bins: int) -> None:
    values = distribution.rvs(size=200_000, random_state=np.random.default_rng(3))
    assert entropy_of(values, bins=bins) == pytest.approx(closed_form(distribution, bins), abs=0.03)


def test_paper_entropies_of_the_notes() -> None:
    """Section 2.4 (49 bins): Gaussian 4.66 at every sigma, log-normal 3.55, exponential 4.06, uniform 4.40.

    The notes leave values beyond 4 sigma out, which changes the skewed ones a little: 1.8 % of an exponential.
    """
    rng = np.random.default_rng(1)
    for sigma in (0.02, 1, 100):
        assert entropy_of(sigma * GAUSS, bins=49) == pytest.approx(4.66, abs=0.02)
    assert entropy_of(np.exp(GAUSS), bins=49) == pytest.approx(3.55, abs=0.1)
    assert entropy_of(rng.exponential(size=200_000), bins=49) == pytest.approx(4.06, abs=0.06)
    assert entropy_of(rng.uniform(size=200_000), bins=49) == pytest.approx(4.40, abs=0.05)


@pytest.mark.parametrize(
    ("sigma", "bits"), [(0.02, 5.59), (0.1, 5.61), (0.3, 5.59), (1, 4.66), (3, 3.09), (10, 1.49), (100, 0.0)]
)
def test_released_entropies_of_the_notes(sigma: float, bits: float) -> None:
    """The notes' sample size is 20,000: 6 % of it lie inside at sigma = 0.02, which costs 0.03 bits of the maximum."""
    assert entropy_of(sigma * GAUSS[:20_000], convention="released") == pytest.approx(bits, abs=0.015)


def test_released_formula_value_by_value() -> None:
    """The definition of section 2.4 as counting loops, NaN included."""
    x = RNG.gamma(2.0, 0.4, size=300)
    x[::50] = np.nan
    filled = [0.0 if v != v else float(v) for v in x]
    mean = sum(filled) / len(filled)
    sigma = (sum((v - mean) ** 2 for v in filled) / len(filled)) ** 0.5
    edges = [-4 * sigma + i * 8 * sigma / 49 for i in range(50)]
    counts = [sum(1 for v in filled if a < (v - mean) / sigma <= b) for a, b in pairwise(edges)]
    shares = [c / sum(counts) if c else np.finfo(float).eps for c in counts]
    expected = -sum(p * np.log2(p) for p in shares)
    assert entropy_of(x, convention="released") == pytest.approx(expected, abs=1e-9)


def test_released_lets_the_degenerate_scorer_win() -> None:
    scores = {"good": GAUSS[:1000], "constant": np.full(1000, 3.0), "also": np.zeros(1000)}
    choice = choose_scorer(scores, convention="released")
    assert choice.name == "constant"
    assert np.isnan(choice.entropies["constant"])
    assert choose_scorer(scores).name == "good"


def test_the_presets_disagree_about_spread() -> None:
    """Paper looks at the shape of a score, the released code at the size of its sigma."""
    scores = {"wide_uniform": 5 * RNG.uniform(size=5000), "narrow_lognormal": 0.05 * np.exp(RNG.normal(size=5000))}
    assert choose_scorer(scores).name == "wide_uniform"
    assert choose_scorer(scores, convention="released").name == "narrow_lognormal"


def test_constant_up_to_rounding_is_dropped() -> None:
    nearly = 0.1 + 1e-17 * np.arange(200) + np.where(np.arange(200) % 2, 1.4e-17, 0)
    choice = choose_scorer({"nearly": nearly, "binary": np.arange(200) % 2})
    assert choice.name == "binary"
    assert np.isnan(choice.entropies["nearly"])
    assert choice.entropies["binary"] == pytest.approx(1.0)


def test_half_defined_scorers_compete() -> None:
    rarely, half = GAUSS[:100].copy(), GAUSS[:100].copy()
    rarely[:51], half[:50] = np.nan, np.nan
    choice = choose_scorer({"rarely": rarely, "half": half})
    assert np.isnan(choice.entropies["rarely"])
    assert choice.entropies["half"] == entropy_of(half[50:])
    assert choose_scorer({"rarely": rarely}, min_defined=0.4).name == "rarely"


def test_ties_go_to_the_first_named() -> None:
    x = GAUSS[:500]
    assert choose_scorer({"a": x, "b": 3 * x + 1}).name == "a"
    assert choose_scorer({"b": 3 * x + 1, "a": x}).name == "b"


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-300, 300), st.floats(-3, 3))
def test_order_scale_and_offset_do_not_matter(seed: int, magnitude: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 1000, size=150).astype(float)
    expected = entropy_of(x)
    assert entropy_of(rng.permutation(x)) == expected
    assert entropy_of((x - x.mean()) * 10.0**magnitude) == pytest.approx(expected, abs=0.2)
    assert entropy_of(x + offset) == pytest.approx(expected, abs=0.2)


def test_nothing_usable() -> None:
    with pytest.raises(NoUsableScorerError, match="a, b"):
        choose_scorer({"a": np.ones(9), "b": np.full(9, np.nan)})
    with pytest.raises(NoUsableScorerError):
        choose_scorer({"a": [1.0]})
    with pytest.raises(NoUsableScorerError):
        choose_scorer({})
    with pytest.raises(DataError, match="shapes"):
        choose_scorer({"a": [1.0, 2.0], "b": [1.0]})
    with pytest.raises(DataError):
        choose_scorer({"a": []})
    with pytest.raises(ConfigError, match="convention"):
        choose_scorer({"a": [1.0, 2.0]}, convention="papers")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="bins"):
        choose_scorer({"a": [1.0, 2.0]}, bins=1)
