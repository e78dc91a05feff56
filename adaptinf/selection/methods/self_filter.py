"""Self-Filter: hard samples, each choice lowering the difficulty of what looks like it."""

from __future__ import annotations

import numpy as np

from adaptinf.config import SelectionConfig
from adaptinf.selection.methods.method import Choice, Method, score_of, unit_rows
from adaptinf.selection.methods.neighbours import greedy, nearest
from adaptinf.selection.pool import Needs, Pool
from adaptinf.selection.selector import register_selector


class SelfFilter(Method):
    """``budget`` times: choose the largest difficulty ``d_i``; then ``d_j <- d_j - gamma d_i cos(x_i, x_j)^2`` on the
    ``k`` nearest neighbours of i.

    Left open by the material: stage 1 trains a scoring network jointly with the model, whose weights for a sample
    fall as its loss rises (the form of that loss is not public). Without such a stage the difficulty here is the loss
    itself, the mean NLL of the answer under the current model; the features are the hidden means instead of CLIP's.

    Source: Chen et al. 2024, section 3; RayRuiboChen/Self-Filter, ``stage2.py``: k = 10, gamma = 1.
    """

    name = "self_filter"

    def __init__(self, k: int = 10, gamma: float = 1.0) -> None:
        self.k, self.gamma = k, gamma

    def needs(self) -> Needs:
        return Needs(hidden=True, scores=("nll",))

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        difficulty = np.log(score_of(pool, "perplexity"))
        near = nearest(unit_rows(pool, "hidden"), self.k)
        chosen = greedy(difficulty, near.rows, self.gamma * near.cosines**2, budget)
        return Choice(np.array(chosen), difficulty, "nll", facts={"neighbours": near.rows.shape[1]})


@register_selector("self_filter")
def _self_filter(_: SelectionConfig) -> SelfFilter:
    return SelfFilter()
