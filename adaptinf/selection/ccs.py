"""Coverage-centric sampling inside a cluster: as many samples from every stratum of the score as it can give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptinf.errors import ConfigError, DataError, NonFiniteError
from adaptinf.selection.budget import resolve_budget, water_fill


class Draw(NamedTuple):
    """Chosen indices, ascending, and the stratum of every sample.

    Strata 0 to bins-1 are the bins from low scores to high, ``bins`` are both tails, ``bins + 1`` undefined scores.
    """

    chosen: NDArray[np.int64]
    stratum: NDArray[np.int64]


def ccs_sample(
    scores: ArrayLike,
    budget: int | float,
    seed: int | np.random.Generator,
    *,
    bins: int = 50,
    quantiles: tuple[float, float] = (0.05, 0.95),
) -> NDArray[np.int64]:
    """Choose ``budget`` samples so that every stratum of the score is covered, exactly.

    The range between the order statistics ``floor(q n)`` of the two quantiles is cut into ``bins`` equal bins, both
    ends included. The budget is water-filled over them (which bins get the remainder is drawn), and from each bin its
    number is drawn uniformly without replacement. What the bins cannot give is drawn uniformly from both tails, and
    what these cannot give from the samples whose score is NaN (undefined).

    The draw depends on ranks, not on positions: permuting the input permutes the choice, up to exchanging samples of
    equal score.

    Args:
        scores: [N] scores; NaN means undefined.
        budget: whole number up to N, or a share in (0, 1].
        seed: seed or generator; the same seed gives the same choice.
        bins: number of strata.
        quantiles: the range that is stratified; ``(0, 1)`` leaves no tails.

    Returns:
        int64 [budget], ascending.

    Raises:
        BudgetError: the budget is not positive or exceeds N.
        NonFiniteError: a score is infinite.
        ConfigError: impossible bins or quantiles.

    Source: CCS (Zheng et al., 2023) as adapted by Adapt-infinity; normative specification, item 6.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise DataError(f"have shape {values.shape}", item="scores", remedy="give one score a sample")
    return draw(values, resolve_budget(budget, len(values)), np.random.default_rng(seed), bins, quantiles).chosen


def draw(
    scores: NDArray[np.float64],
    budget: int,
    rng: np.random.Generator,
    bins: int = 50,
    quantiles: tuple[float, float] = (0.05, 0.95),
) -> Draw:
    """``ccs_sample`` with a resolved budget (0 to N), telling the strata as well."""
    stratum = strata(scores, bins, quantiles)
    by_rank = np.argsort(scores, kind="stable")  # NaN last
    ranked = stratum[by_rank]
    counts = np.bincount(ranked, minlength=bins + 2)

    shuffled = rng.permutation(bins)  # water_fill gives the remainder to the first
    take = np.zeros(bins + 2, dtype=np.int64)
    take[shuffled] = water_fill(counts[shuffled].tolist(), min(budget, int(counts[:bins].sum())))
    take[bins] = min(counts[bins], budget - take.sum())
    take[bins + 1] = budget - take.sum()

    lottery = np.lexsort((rng.random(len(scores)), ranked))
    place = np.arange(len(scores)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = by_rank[lottery[place < np.repeat(take, counts)]]
    return Draw(np.sort(chosen).astype(np.int64), stratum)


def strata(scores: NDArray[np.float64], bins: int, quantiles: tuple[float, float]) -> NDArray[np.int64]:
    """The stratum of every sample, int64 [N], numbered as in ``Draw``."""
    if bins < 1:
        raise ConfigError(f"must be at least 1, got {bins}", item="bins")
    if not 0 <= quantiles[0] < quantiles[1] <= 1:
        raise ConfigError(f"must be two ascending shares in [0, 1], got {quantiles}", item="quantiles")
    if np.isinf(scores).any():
        raise NonFiniteError(
            "is infinite", item=f"score {int(np.flatnonzero(np.isinf(scores))[0])}", remedy="drop or replace that score"
        )
    stratum = np.full(len(scores), bins + 1, dtype=np.int64)
    defined = np.flatnonzero(~np.isnan(scores))
    if len(defined) == 0:
        return stratum
    values = scores[defined] / 2  # halved: the range of two doubles may exceed the largest double
    ordered = np.sort(values)
    low, high = (ordered[min(int(q * len(values)), len(values) - 1)] for q in quantiles)
    inside = (values >= low) & (values <= high)
    stratum[defined] = bins
    span = high - low
    relative = (values[inside] - low) / span if span > 0 else np.zeros(np.count_nonzero(inside))
    stratum[defined[inside]] = np.minimum((relative * bins).astype(np.int64), bins - 1)
    return stratum
