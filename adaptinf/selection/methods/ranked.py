"""One score over the whole pool: its highest, lowest or middle samples."""

from __future__ import annotations

from typing import Literal

import numpy as np

from adaptinf.config import SelectionConfig
from adaptinf.selection.methods.method import Choice, Method, ranked, score_of
from adaptinf.selection.pool import Needs, Pool
from adaptinf.selection.scorers import PAPER_SCORERS
from adaptinf.selection.selector import Factory, register_selector

End = Literal["high", "mid", "low"]


class Ranked(Method):
    """The ``budget`` samples of the highest, the lowest or the middle ranks of one score.

    ``mid`` is the slice of ranks ``floor((n - budget) / 2)`` onwards of the n samples that have the score. Ties are
    drawn by seed. Samples without the score (Image Grounding without a picture) are drawn when all others are taken.

    Source: perplexity, high, mid and low: Marion et al. 2023; EL2N and GraNd (gradient norm), high: Paul et al. 2021;
    entropy, high: uncertainty sampling; Image Grounding, high: Adapt-infinity, section 3.
    """

    def __init__(self, name: str, scorer: str, end: End) -> None:
        self.name, self.scorer, self.end = name, scorer, end

    def needs(self) -> Needs:
        return Needs(scores=PAPER_SCORERS[self.scorer].columns)

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        values = score_of(pool, self.scorer)
        order = ranked(-values if self.end == "low" else values, rng)
        if self.end == "mid":
            defined = int(np.isfinite(values).sum())
            first = max((defined - budget) // 2, 0)
            order = np.roll(order, -first)
        return Choice(order[:budget], values, self.scorer)


def _factory(name: str, scorer: str, end: End) -> Factory:
    def make(_: SelectionConfig) -> Ranked:
        return Ranked(name, scorer, end)

    return make


_REGISTERED: tuple[tuple[str, str, End], ...] = (
    ("perplexity_high", "perplexity", "high"),
    ("perplexity_mid", "perplexity", "mid"),
    ("perplexity_low", "perplexity", "low"),
    ("el2n", "el2n", "high"),
    ("entropy", "entropy", "high"),
    ("grand", "grand", "high"),
    ("image_grounding", "image_grounding", "high"),
)
for _name, _scorer, _end in _REGISTERED:
    register_selector(_name)(_factory(_name, _scorer, _end))
