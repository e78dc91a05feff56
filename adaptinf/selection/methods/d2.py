"""D2 pruning: difficulty and diversity balanced by messages over a graph of neighbours."""

from __future__ import annotations

import numpy as np

from adaptinf.config import SelectionConfig
from adaptinf.selection.methods.method import Choice, Method, score_of, unit_rows
from adaptinf.selection.methods.neighbours import greedy, nearest
from adaptinf.selection.pool import Needs, Pool
from adaptinf.selection.scorers import PAPER_SCORERS
from adaptinf.selection.selector import register_selector


class D2Pruning(Method):
    """Difficult samples in dense places first; each choice lowers its neighbours.

    On the graph of the ``k`` nearest neighbours N(i) in the hidden means (unit rows, ``d_ij = |x_i - x_j|^2``):

    1. forward: ``s_i <- s_i + sum_{j in N(i)} exp(-d_ij) s_j``, from the difficulty ``s`` (EL2N);
    2. reverse, ``budget`` times: choose the highest ``s_i``; then ``s_j <- s_j - exp(-gamma d_ij) s_i`` on N(i).

    Left open by the material: the difficulty in a stream of instructions (the paper has AUM, which needs the history of
    training; EL2N is its score for a model at hand), and the direction of an edge (we message along N(i), as the
    released code does).

    Source: Maharana et al. 2024 (ICLR), equations 3 and 4; adymaharana/d2pruning, ``core/data/sampling.py``, k = 5,
    gamma = 0.1 as in its CIFAR example.
    """

    name = "d2"

    def __init__(self, k: int = 5, gamma: float = 0.1) -> None:
        self.k, self.gamma = k, gamma

    def needs(self) -> Needs:
        return Needs(hidden=True, scores=PAPER_SCORERS["el2n"].columns)

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        difficulty = score_of(pool, "el2n")
        near = nearest(unit_rows(pool, "hidden"), self.k)
        squared = 2 - 2 * near.cosines
        scores = difficulty + (np.exp(-squared) * difficulty[near.rows]).sum(axis=1)
        chosen = greedy(scores, near.rows, np.exp(-self.gamma * squared), budget)
        return Choice(np.array(chosen), scores, "el2n with neighbours", facts={"neighbours": near.rows.shape[1]})


@register_selector("d2")
def _d2(_: SelectionConfig) -> D2Pruning:
    return D2Pruning()
