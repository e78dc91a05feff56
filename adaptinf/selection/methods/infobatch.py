"""InfoBatch as a choice before training: easy samples are thinned, hard ones stay."""

from __future__ import annotations

import numpy as np

from adaptinf.config import SelectionConfig
from adaptinf.selection.methods.method import Choice, Method, score_of
from adaptinf.selection.pool import Needs, Pool
from adaptinf.selection.selector import register_selector


class InfoBatch(Method):
    """All samples whose loss is at least the mean stay, those below it are thinned uniformly to fill the budget.

    Where more than ``budget`` samples lie at or above the mean, these are thinned uniformly instead.

    InfoBatch draws anew in every epoch, prunes a share r of the samples below the mean and weights the rest of them by
    1 / (1 - r). Here the choice is made once a step by the loss under the current model, r follows from the budget, and
    training stays unweighted: that is what a budget of distinct samples allows.

    Source: Qin et al. 2024 (ICLR), section 3; NUS-HPC-AI-Lab/InfoBatch, ``infobatch.py``.
    """

    name = "infobatch"

    def needs(self) -> Needs:
        return Needs(scores=("nll",))

    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        loss = np.log(score_of(pool, "perplexity"))
        mean = loss.mean()
        hard, easy = np.flatnonzero(loss >= mean), np.flatnonzero(loss < mean)
        kept = rng.permutation(hard)[:budget]
        filled = rng.permutation(easy)[: budget - len(kept)]
        facts = {"mean_nll": float(mean), "share_of_easy_pruned": 1 - len(filled) / len(easy) if len(easy) else 0.0}
        return Choice(np.concatenate([kept, filled]), loss, "nll", facts=facts)


@register_selector("infobatch")
def _infobatch(_: SelectionConfig) -> InfoBatch:
    return InfoBatch()
