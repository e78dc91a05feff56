"""The formulas of the released Adapt-infinity code, with its defects, for comparison with the paper's intent.

Re-derived from the description of adymaharana/adapt-inf at d1b1b25 in the method's notes, sections 2.4 to 2.6. What is
wrong with each is said where it is; the ``paper`` preset has none of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptinf.errors import BudgetError


class ReleasedDraw(NamedTuple):
    """Chosen indices in the order of drawing, and the bin of every sample: 0 is the lowest, -1 a tail."""

    chosen: NDArray[np.int64]
    bin: NDArray[np.int64]


def water_fill(sizes: Sequence[int], budget: int) -> list[int]:
    """Spread a budget over clusters with the share rounded up at every step, so that the sum overshoots a little.

    The share starts at ``b = ceil(B/k)``. If it fits everywhere, each cluster gets it. Else, from the smallest cluster
    to the largest, one smaller than ``b`` is taken whole and ``b`` grows by ``ceil((b - size) / clusters left)``.

    Raises:
        BudgetError: the last cluster is smaller than the share: the budget, or what rounding made of it, exceeds the
            pool. The released code divides by zero there.
    """
    k, given = len(sizes), list(sizes)
    share = -(-budget // k)
    if min(sizes) * k >= budget:
        return [share] * k
    for place, cluster in enumerate(sorted(range(k), key=lambda i: sizes[i])):
        left, size = k - place - 1, sizes[cluster]
        given[cluster] = min(size, share)
        if size < share:
            if left == 0:
                raise BudgetError(
                    f"the rounded-up shares of {budget} samples exceed the pool of {sum(sizes)}",
                    item="budget",
                    remedy="use the preset paper, whose budgets are exact, or a smaller budget",
                )
            share += -(-(share - size) // left)
    return given


def histogram_entropy(scores: ArrayLike, edges: int = 50) -> float:
    """Bits of the z-scores' histogram over ``edges`` edges from -4 to +4 times the sigma of the raw scores.

    The edges should be at -4 and 4: as they are, the entropy mostly tells how small sigma is. NaN scores count as 0,
    bins are open on the left, values outside are not counted, empty bins get the machine epsilon. NaN for a constant
    score or when no value lies inside.
    """
    x = np.asarray(scores, dtype=np.float64)
    x = np.where(np.isnan(x), 0.0, x)
    sigma = x.std()
    with np.errstate(all="ignore"):
        z = (x - x.mean()) / sigma
        at = np.linspace(-4 * sigma, 4 * sigma, edges)
        below = np.array([np.count_nonzero(z <= edge) for edge in at])
        share = np.diff(below) / (below[-1] - below[0])
        share[share == 0] = np.finfo(np.float64).eps
        return float(-(share * np.log2(share)).sum())


def ccs_sample(scores: ArrayLike, budget: int, rng: random.Random, bins: int = 50) -> ReleasedDraw:
    """Coverage sampling in one pass over the bins from high scores to low.

    The bins ``(left, right]`` divide the range between the order statistics ``floor(0.05 n)`` and ``floor(0.95 n)``,
    so nothing outside can ever be chosen. The share starts at ``b = ceil(B/bins)``; a bin with fewer is taken whole
    and ``b = ceil(rest / bins left)``, from another ``b`` are drawn. What the low bins cannot give is lost (shortfall
    at large budgets), and rounding up makes small budgets overshoot (10 becomes 50).

    A share that rounding made negative ends the sampling; the released code raises ValueError there.
    """
    x = np.asarray(scores, dtype=np.float64)
    x = np.where(np.isnan(x), 0.0, x)
    ordered = np.sort(x)
    low, high = ordered[int(0.05 * len(x))], ordered[int(0.95 * len(x))]
    step = (high - low) / bins
    edges = np.subtract.accumulate(np.concatenate([[high], np.full(bins, step)]))[::-1]
    bin_of = np.searchsorted(edges, x, side="left") - 1
    bin_of[(bin_of < 0) | (bin_of >= bins)] = -1
    by_bin = np.argsort(bin_of, kind="stable")
    start = np.searchsorted(bin_of[by_bin], np.arange(bins + 1))

    chosen: list[NDArray[np.int64]] = []
    share, rest = -(-budget // bins), budget
    for b in reversed(range(bins)):  # b is also the number of bins left after this one
        members = by_bin[start[b] : start[b + 1]]
        if len(members) < share:
            chosen.append(members)
            rest -= len(members)
            share = max(0, -(-rest // b)) if b else 0
        else:
            chosen.append(members[rng.sample(range(len(members)), share)])
            rest -= share
    return ReleasedDraw(np.concatenate(chosen).astype(np.int64), bin_of.astype(np.int64))
