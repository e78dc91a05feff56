"""OASIS: informative against the stream's running statistics, each choice discounting what resembles it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adaptinf.config import SelectionConfig
from adaptinf.selection.methods.method import Choice, Method, highest, score_of, unit_rows
from adaptinf.selection.pool import Needs, Pool
from adaptinf.selection.scorers import PAPER_SCORERS
from adaptinf.selection.selector import register_selector


class Oasis(Method):
    """The highest relative informativeness over a stream of batches.

    The samples stream by in batches, in an order drawn by seed. Informativeness ``I_i = |g_i|^2``, the trace of the
    sample's empirical Fisher information over the features' parameters. Inside a batch (SIREN) the largest remaining
    I is taken again and again, and each taken sample j lowers the others: ``I_i <- I_i - max(cos(g_i, g_j), 0) I_i``.
    Then (ORIS) ``z_i = (I_i - m) / sqrt(v)`` with the exponentially weighted mean m and variance v of the I of all
    batches so far, this one included. The ``budget`` samples of the largest z are chosen.

    Left open by the material: the layer of the Fisher information (theirs is the last), the rate of the averages (0.1
    here), the batch (32), how much a likeness discounts, and the quota: OASIS draws each sample with a probability,
    which makes no budget exact, so the samples are ranked by z instead.

    Source: OASIS (ACL 2026): ORIS, relative informativeness; SIREN, redundancy. No code of it was read.
    """

    name = "oasis"

    def __init__(self, batch: int = 32, rate: float = 0.1) -> None:
        self.batch, self.rate = batch, rate

    def needs(self) -> Needs:
        return Needs(sketch=True, scores=PAPER_SCORERS["grand"].columns)

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        information, unit = score_of(pool, "grand") ** 2, unit_rows(pool, "sketch").astype(np.float64)
        relative = np.empty(len(pool))
        mean, variance = 0.0, 0.0
        order = rng.permutation(len(pool))
        for number, start in enumerate(range(0, len(order), self.batch)):
            rows = order[start : start + self.batch]
            discounted = discount(information[rows], unit[rows])
            rate = self.rate if number else 1.0  # the first batch is all that is known
            mean += rate * (discounted.mean() - mean)
            variance += rate * (((discounted - mean) ** 2).mean() - variance)
            relative[rows] = (discounted - mean) / np.sqrt(variance) if variance > 0 else 0.0
        return Choice(highest(relative, budget, rng), relative, "relative informativeness")


def discount(information: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """SIREN over one batch: what each sample's informativeness is when its turn comes; ties: the first."""
    left = information.copy()
    cosines = np.clip(unit @ unit.T, 0, 1)
    waiting = np.ones(len(left), bool)
    for _ in range(len(left)):
        taken = int(np.argmax(np.where(waiting, left, -np.inf)))
        waiting[taken] = False
        left[waiting] *= 1 - cosines[taken, waiting]
    return left


@register_selector("oasis")
def _oasis(_: SelectionConfig) -> Oasis:
    return Oasis()
