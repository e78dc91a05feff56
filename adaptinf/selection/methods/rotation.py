"""Every task its share, and in each the samples that were trained on least."""

from __future__ import annotations

import numpy as np

from adaptinf.config import SelectionConfig
from adaptinf.selection.budget import proportional
from adaptinf.selection.methods.method import Choice, Method, highest
from adaptinf.selection.pool import Needs, Pool
from adaptinf.selection.selector import register_selector


class Rotation(Method):
    """Replay that goes round: a task of N_m samples gets a share of the budget in proportion to ``N_m ** power``
    (largest remainders, none more than it has), and inside it those samples come first that the fewest earlier steps
    selected, drawn by seed among equals.

    Random replay draws a task's share with the spread of a hypergeometric number, and again and again the same samples
    while others never come: after t steps at a share b of the pool ``(1 - b)^t`` of a task has not been seen. Here the
    shares are fixed, and every sample of a task has been trained on once before any is for the second time. It costs
    no pass of the model. In a pool without a history (``n_trained`` is None) it is stratified sampling.

    ``rotation`` (power 1) allocates as random replay does in the mean. ``adaptinf`` (power 1/2) takes from large tasks
    for small ones, as temperature sampling does: a large task is learned from a smaller part of it.

    Source: ours; stratified sampling and its allocations as in Cochran 1977, chapter 5; sampling by a power of the
    size, Conneau and Lample 2019, section 3.1 (arXiv:1901.07291). Measured in docs/quality.md and docs/experiments.md.
    """

    def __init__(self, name: str, power: float) -> None:
        self.name, self.power = name, power

    def needs(self) -> Needs:
        return Needs()

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        tasks, task_of = np.unique(np.array(pool.tasks), return_inverse=True)
        sizes = np.bincount(task_of, minlength=len(tasks))
        trained = np.zeros(len(pool)) if pool.n_trained is None else pool.n_trained.astype(np.float64)
        shares = proportional((sizes**self.power).tolist(), sizes.tolist(), budget)
        chosen = []
        for task, share in enumerate(shares):
            rows = np.flatnonzero(task_of == task)
            chosen.append(rows[highest(-trained[rows], share, rng)])
        facts = {"shares": dict(zip(tasks.tolist(), shares, strict=True)), "unseen": int((trained == 0).sum())}
        return Choice(np.concatenate(chosen), trained, "times trained", facts=facts)


@register_selector("rotation")
def _rotation(_: SelectionConfig) -> Rotation:
    return Rotation("rotation", 1.0)


@register_selector("adaptinf")
def _adaptinf(_: SelectionConfig) -> Rotation:
    return Rotation("adaptinf", 0.5)
