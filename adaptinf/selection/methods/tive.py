"""TIVE: more samples from tasks of large gradients, in each those that point where the task points."""

from __future__ import annotations

import numpy as np

from adaptinf.config import SelectionConfig
from adaptinf.selection.budget import proportional
from adaptinf.selection.methods.method import Choice, Method, highest, score_of, unit_rows
from adaptinf.selection.pool import Needs, Pool
from adaptinf.selection.scorers import PAPER_SCORERS
from adaptinf.selection.selector import register_selector

_SHARPNESS = 0.001


class Tive(Method):
    """Task value: the mean gradient norm of the task's samples, which shares out the budget. Instance value: the mean
    cosine of a sample's gradient to those of its task. Samples are drawn without replacement with weights
    ``exp(0.001 value)``.

    What a task cannot take of its share goes to the others in proportion. The draw without replacement takes the
    largest of ``0.001 value`` plus independent Gumbel numbers (Efraimidis and Spirakis 2006).

    Source: Liu et al. 2024, section 3.2; simplelifetime/TIVE (q = 0.001). Gradients here are those of the features'
    layers, sketched; the original has all layers' attention.
    """

    name = "tive"

    def needs(self) -> Needs:
        return Needs(sketch=True, scores=PAPER_SCORERS["grand"].columns)

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        norms, unit = score_of(pool, "grand"), unit_rows(pool, "sketch").astype(np.float64)
        tasks, label, sizes = np.unique(pool.tasks, return_inverse=True, return_counts=True)
        task_value = np.bincount(label, norms) / sizes
        means = np.stack([unit[label == t].mean(axis=0) for t in range(len(tasks))])
        value = np.einsum("nk,nk->n", unit, means[label])
        shares = proportional(task_value, sizes.tolist(), budget)
        keys = _SHARPNESS * value + rng.gumbel(size=len(value))
        chosen = [
            rows[highest(keys[rows], share, rng)]
            for rows, share in zip((np.flatnonzero(label == t) for t in range(len(tasks))), shares, strict=True)
        ]
        facts = {"budgets": dict(zip(tasks.tolist(), shares, strict=True))}
        return Choice(np.concatenate(chosen), value, "mean cosine to the task", facts=facts)


@register_selector("tive")
def _tive(_: SelectionConfig) -> Tive:
    return Tive()
