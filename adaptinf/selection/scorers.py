"""Scorers by name: what each computes from the raw score columns."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptinf.errors import ConfigError, DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scorer:
    """One number a sample, from raw columns.

    ``image_only`` marks a scorer that has no meaning for a sample without pictures: NaN there, which is no error.
    """

    name: str
    formula: str
    columns: tuple[str, ...]
    compute: Callable[..., Array]
    image_only: bool = False

    def values(self, columns: Mapping[str, Array]) -> Array:
        """float64 [N]; NaN wherever one of the raw numbers is not finite, so that no formula can hide it.

        Raises:
            DataError: a column is missing.
        """
        missing = [name for name in self.columns if name not in columns]
        if missing:
            raise DataError(
                f"needs the column {missing[0]!r}", item=f"scorer {self.name}", remedy="compute it, or drop the scorer"
            )
        raw = [np.asarray(columns[name], dtype=np.float64) for name in self.columns]
        with np.errstate(all="ignore"):
            values = self.compute(*raw)
        return np.where(np.logical_and.reduce([np.isfinite(column) for column in raw]), values, np.nan)


def _table(*scorers: Scorer) -> dict[str, Scorer]:
    return {scorer.name: scorer for scorer in scorers}


def _itself(column: Array) -> Array:
    return column


PAPER_SCORERS: Mapping[str, Scorer] = _table(
    Scorer("perplexity", "exp(nll)", ("nll",), np.exp),
    Scorer("el2n", "el2n", ("el2n",), _itself),
    Scorer("entropy", "entropy", ("entropy",), _itself),
    Scorer(
        "image_grounding",
        "exp(nll_without_image - nll)",
        ("nll_without_image", "nll"),
        lambda without, nll: np.exp(without - nll),
        image_only=True,
    ),
    Scorer("grand", "grad_norm", ("grad_norm",), _itself),
)
"""The published definitions: section 1.3 and items 3 and 4 of section 4 of the method's notes."""

RELEASED_SCORERS: Mapping[str, Scorer] = _table(
    Scorer("perplexity", "log(mean_exp_nll)", ("mean_exp_nll",), np.log),
    Scorer("el2n", "el2n", ("el2n",), _itself),
    Scorer("entropy", "entropy_all", ("entropy_all",), _itself),
    Scorer(
        "image_grounding",
        "exp(nll_without_image) / mean_exp_nll",
        ("nll_without_image", "mean_exp_nll"),
        lambda without, ppl: np.exp(without) / ppl,
    ),
    Scorer("grand", "grad_norm", ("grad_norm",), _itself),
)
"""The released code's formulas under the same names: its perplexity averages exponentials over the answer and enters
as a logarithm, its entropy runs over every position, its grounding divides two different means and exists for all."""

DEFAULT_SCORERS = ("perplexity", "el2n", "entropy", "image_grounding")


def named_scorers(names: Iterable[str], table: Mapping[str, Scorer] = PAPER_SCORERS) -> list[Scorer]:
    """The scorers of these names, in this order, which is also the order of ties.

    Raises:
        ConfigError: no name is given, one is given twice, or one is unknown.
    """
    names = list(names)
    if not names:
        raise ConfigError("no scorer is named", item="scorers", remedy=f"choose from {', '.join(table)}")
    for name in names:
        if name not in table:
            near = difflib.get_close_matches(name, table, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(table)}"
            raise ConfigError("unknown scorer", item=name, remedy=remedy)
        if names.count(name) > 1:
            raise ConfigError("is named twice", item=f"scorer {name}", remedy="name it once")
    return [table[name] for name in names]
