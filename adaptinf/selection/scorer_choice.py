"""Which scorer a cluster uses: the one whose values are spread over the most histogram bins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptinf.errors import ConfigError, DataError, NoUsableScorerError
from adaptinf.selection import released

Convention = Literal["paper", "released"]

CONSTANT_RTOL = 1e-12
"""Scores whose range is below this share of their largest magnitude differ by rounding only: they are constant."""


class ScorerChoice(NamedTuple):
    """The chosen scorer and the entropy of every scorer in bits, NaN where it could not be used."""

    name: str
    entropies: dict[str, float]


def choose_scorer(
    scores: Mapping[str, ArrayLike], *, bins: int = 50, convention: Convention = "paper", min_defined: float = 0.5
) -> ScorerChoice:
    """The scorer of the largest entropy ``H = -sum_b p_b log2 p_b`` of its histogram over one cluster.

    ``paper``: ``bins`` equal bins of the z-scores over [-4, 4], values outside counted in the end bins. A scorer is
    not usable, and its entropy NaN, when fewer than ``min_defined`` of its values are finite (Image Grounding in a
    cluster of texts) or the finite ones are constant. Entropies equal to nine decimals are a tie, which the scorer
    named first wins. The result does not depend on the order of the samples nor on a scorer's scale and offset.

    ``released``: the released code's histogram (see ``released.histogram_entropy``) and ``np.argmax``, to which a NaN
    is the maximum: a constant scorer wins. Nothing is ever unusable.

    Args:
        scores: one array [N] a scorer, all of one length.
        bins: bins of the histogram (``released``: edges, so one bin less).
        convention: which of the two.
        min_defined: share of finite values that a scorer needs (``paper``).

    Raises:
        NoUsableScorerError: every scorer is constant or undefined (``paper``), or none is given.
        DataError: the arrays differ in length, or are empty.
        ConfigError: an unknown convention, or fewer than two bins.

    Source: H(P) of the paper's multi-way selection; bin range and clipping as in the normative specification, item 4.
    """
    if convention not in get_args(Convention) or bins < 2:
        raise ConfigError(
            f"impossible convention {convention!r} or number of bins {bins}",
            item="choose_scorer",
            remedy=f"conventions are {', '.join(get_args(Convention))}; bins are 2 or more",
        )
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    if not columns:
        raise NoUsableScorerError("no scorer is given", item="scores", remedy="name at least one scorer")
    shapes = {values.shape for values in columns.values()}
    if len(shapes) > 1 or any(len(shape) != 1 or shape[0] == 0 for shape in shapes):
        raise DataError(f"have shapes {sorted(shapes)}", item="scores", remedy="give one non-empty vector a scorer")
    if convention == "released":
        entropies = {name: released.histogram_entropy(values, bins) for name, values in columns.items()}
        return ScorerChoice(list(columns)[int(np.argmax(list(entropies.values())))], entropies)
    entropies = {name: histogram_entropy(values, bins, min_defined) for name, values in columns.items()}
    if all(np.isnan(list(entropies.values()))):
        raise NoUsableScorerError(
            "every one is constant or undefined",
            item=", ".join(columns),
            remedy="add a scorer that varies, or use a selector without scores (random)",
        )
    return ScorerChoice(max(columns, key=lambda name: _comparable(entropies[name])), entropies)


def margin(choice: ScorerChoice) -> float:
    """How many bits the chosen scorer is ahead of the next one; NaN when there is none."""
    others = [bits for name, bits in choice.entropies.items() if name != choice.name and not np.isnan(bits)]
    return choice.entropies[choice.name] - max(others, default=float("nan"))


def histogram_entropy(values: NDArray[np.float64], bins: int = 50, min_defined: float = 0.5) -> float:
    """Bits of the histogram of z-scores over [-4, 4]; NaN for a constant scorer and for one that is rarely defined."""
    defined = np.sort(values[np.isfinite(values)])  # sorted: sums, and so the result, are those of any order
    if len(defined) == 0 or len(defined) < min_defined * len(values):
        return float("nan")
    largest = max(abs(defined[0]), abs(defined[-1]))
    unit = defined / largest if largest > 0 else defined
    if unit[-1] - unit[0] <= CONSTANT_RTOL:
        return float("nan")
    z = (unit - unit.mean()) / unit.std()
    bin_of = np.clip(np.floor((z + 4) / 8 * bins), 0, bins - 1).astype(np.intp)
    share = np.bincount(bin_of, minlength=bins) / len(z)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum() + 0.0)


def _comparable(bits: float) -> float:
    return -np.inf if np.isnan(bits) else round(bits, 9)
