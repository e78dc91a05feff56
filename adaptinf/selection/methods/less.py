"""LESS: the samples whose gradients point where those of a few target samples point."""

from __future__ import annotations

import numpy as np

from adaptinf.config import SelectionConfig
from adaptinf.selection.methods.method import Choice, Method, highest, unit_rows
from adaptinf.selection.pool import Needs, Pool
from adaptinf.selection.selector import register_selector


class Less(Method):
    """The largest influence ``max_t mean_{v in V_t} <u_i, z_v>`` over the tasks t; z the sketches of the gradients, u
    those of the directions that Adam would take from them (the sketches themselves before the first training), both as
    unit rows.

    The targets ``V_t`` are ``targets`` samples of each task of the pool, drawn by seed: the data to do well on are
    those that the model has met. They may be chosen themselves, and do not count as their own target.

    Left open by the use in a stream: LESS warms up on 5 % of the data and sums over its checkpoints, weighted by their
    learning rates; here there is one, the model and Adam's moments as the last step left them.

    Source: Xia et al. 2024 (ICML), section 3; princeton-nlp/LESS, ``less/data_selection/matching.py``.
    """

    name = "less"

    def __init__(self, targets: int = 10) -> None:
        self.targets = targets

    def needs(self) -> Needs:
        return Needs(sketch=True, direction=True)

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        unit = unit_rows(pool, "sketch").astype(np.float64)
        moves = unit if pool.direction is None else unit_rows(pool, "direction").astype(np.float64)
        tasks = np.array(pool.tasks)
        influence = np.full(len(pool), -np.inf)
        for task in np.unique(tasks):
            rows = rng.permutation(np.flatnonzero(tasks == task))[: self.targets]
            to_all = moves @ unit[rows].sum(axis=0)
            count = np.full(len(pool), len(rows))
            to_all[rows] -= np.einsum("nk,nk->n", moves[rows], unit[rows])
            count[rows] -= 1
            influence = np.maximum(influence, np.where(count > 0, to_all / np.maximum(count, 1), -np.inf))
        influence = np.where(np.isfinite(influence), influence, np.nan)  # the only sample of the only task
        return Choice(highest(influence, budget, rng), influence, "influence on the nearest task")


@register_selector("less")
def _less(_: SelectionConfig) -> Less:
    return Less()
