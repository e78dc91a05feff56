"""How many samples: a budget resolved against the pool, and spread over clusters or bins by water-filling."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adaptinf.errors import BudgetError

Budget = int | float


def resolve_budget(budget: Budget, n: int, *, capped: bool = False) -> int:
    """A budget in samples: a whole number is taken as it is, a float in (0, 1] is a share of ``n``.

    A share is rounded half up and is never less than one sample, so ``1`` means one sample and ``1.0`` all of them.

    Args:
        budget: whole number of samples, or a share.
        n: size of the pool.
        capped: a whole number larger than ``n`` means ``n`` (a capacity) instead of being an error (a demand).

    Raises:
        BudgetError: the pool is empty, or the budget is not a number of that kind, is not positive, or exceeds ``n``.
    """
    if n < 1:
        raise BudgetError("the pool is empty", item="pool", remedy="give at least one sample")
    if isinstance(budget, (float, np.floating)):
        if not 0 < budget <= 1:
            raise BudgetError(
                f"a share must lie in (0, 1], got {budget}", item="budget", remedy="write a whole number for samples"
            )
        return max(1, min(n, math.floor(float(budget) * n + 0.5)))
    if isinstance(budget, (bool, np.bool_)):
        raise BudgetError(f"expected a number, got {budget}", item="budget", remedy="an int, or a float in (0, 1]")
    try:
        count = operator.index(budget)
    except TypeError:
        raise BudgetError(
            f"expected a number, got {budget!r}", item="budget", remedy="an int, or a float in (0, 1]"
        ) from None
    if count < 1:
        raise BudgetError(f"must be at least one sample, got {count}", item="budget", remedy="an int of 1 or more")
    if count > n and not capped:
        raise BudgetError(
            f"{count} samples were asked of a pool of {n}",
            item="budget",
            remedy=f"ask for at most {n}, or for a share of the pool (a float in (0, 1])",
        )
    return min(count, n)


def water_fill(capacities: Sequence[int], budget: int) -> list[int]:
    """Spread a budget as evenly as the capacities allow, exactly.

    With the water level ``L = max {l : sum_i min(c_i, l) <= budget}`` every entry gets ``min(c_i, L)``; the remainder
    ``r = budget - sum_i min(c_i, L)`` goes, one each, to the first ``r`` entries in index order that are not full.
    The result sums to ``min(budget, sum(capacities))``, and no entry could be raised by lowering a larger one.

    Args:
        capacities: sizes, whole numbers >= 0.
        budget: whole number >= 0; more than the capacities hold fills them all.

    Raises:
        BudgetError: a capacity or the budget is negative, not whole, or not a number.

    Source: normative specification item 5; the released code's ceil variant is ``released.water_fill``.
    """
    caps = [_whole(c, f"capacities[{i}]") for i, c in enumerate(capacities)]
    budget = _whole(budget, "budget")
    if budget >= sum(caps):
        return caps
    level, left, open_entries = 0, budget, len(caps)
    for cap in sorted(caps):  # raise the water from one capacity to the next until it runs out
        if (cap - level) * open_entries > left:
            break
        left -= (cap - level) * open_entries
        level, open_entries = cap, open_entries - 1
    rise, remainder = divmod(left, open_entries)
    level += rise
    filled = [min(cap, level) for cap in caps]
    for i in [i for i, cap in enumerate(caps) if cap > level][:remainder]:
        filled[i] += 1
    return filled


def proportional(weights: Sequence[float] | NDArray[np.float64], capacities: Sequence[int], budget: int) -> list[int]:
    """Spread a budget in proportion to the weights as far as the capacities allow, exactly.

    Entries whose proportional part exceeds their capacity are filled and leave the rest to the others, until none is;
    fractions are rounded by largest remainder, equal ones in index order. Entries of weight 0 come last, evenly.

    Args:
        weights: finite numbers >= 0.
        capacities: whole numbers >= 0, as many.
        budget: whole number >= 0, at most the sum of the capacities.

    Raises:
        BudgetError: a number is negative, not finite or not whole, or the capacities do not hold the budget.
    """
    caps = np.array([_whole(c, f"capacities[{i}]") for i, c in enumerate(capacities)], dtype=np.int64)
    share = np.asarray(weights, dtype=np.float64)
    if (
        not (np.isfinite(share) & (share >= 0)).all()
        or len(share) != len(caps)
        or _whole(budget, "budget") > caps.sum()
    ):
        raise BudgetError(
            f"{budget} samples cannot be spread over capacities {caps.tolist()} by weights {share.tolist()}",
            item="budget",
            remedy="give a finite weight >= 0 for each capacity, and no more samples than they hold",
        )
    filled = np.zeros(len(caps))
    open_ = share > 0
    while open_.any():
        part = np.where(open_, share, 0.0)
        part /= part.max()
        part *= (budget - filled.sum()) / part.sum()
        over = open_ & (part >= caps)
        if not over.any():
            filled += part
            break
        filled[over] = caps[over]
        open_ &= ~over
    whole = np.minimum(np.floor(filled + 1e-9).astype(np.int64), caps)
    by_remainder = np.argsort(-np.where(share > 0, filled - whole, -1), kind="stable")
    takers = by_remainder[(whole < caps)[by_remainder] & (share > 0)[by_remainder]]
    whole[takers[: budget - whole.sum()]] += 1
    return (whole + np.array(water_fill((caps - whole).tolist(), int(budget - whole.sum())))).tolist()


def _whole(value: int | float, name: str) -> int:
    """``value`` as an int; a whole float (numpy sums often are) is accepted."""
    number = float("nan") if isinstance(value, (bool, np.bool_, str)) else value
    try:
        whole = int(number)
        exact = whole == number
    except (TypeError, ValueError, OverflowError):
        whole, exact = -1, False
    if not exact or whole < 0:
        raise BudgetError(f"expected a whole number of 0 or more, got {value!r}", item=name, remedy="count samples")
    return whole
