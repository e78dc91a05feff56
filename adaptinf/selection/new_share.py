"""A fixed share of the budget for what has just arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from adaptinf.selection.budget import resolve_budget
from adaptinf.selection.pool import Needs, Pool, Selection

if TYPE_CHECKING:
    from adaptinf.selection.selector import Selector


class NewShare:
    """Any selector, asked twice: for ``round(share * budget)`` of the samples that arrive at this step, and for the
    rest of the older ones, each without the other. A side that holds fewer than its part leaves the rest to the other.

    The clusters of the older samples are numbered after those of the new ones; the summary of each side is under
    ``parts``.
    """

    def __init__(self, selector: Selector, share: float) -> None:
        self.name, self.selector, self.share = selector.name, selector, share

    def needs(self) -> Needs:
        return self.selector.needs()

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        """Decide over every sample of the pool. Raises what the selector raises."""
        budget = resolve_budget(budget, len(pool))
        new, old = np.flatnonzero(pool.is_new), np.flatnonzero(~pool.is_new)
        for_new = min(max(round(self.share * budget), budget - len(old)), len(new))
        selected, score = np.zeros(len(pool), bool), np.full(len(pool), np.nan)
        cluster = np.full(len(pool), -1, np.int32)
        scorer, reason = np.full(len(pool), "", object), np.full(len(pool), "left out: no budget for its side", object)
        parts: dict[str, Any] = {}
        for name, rows, part in (("new", new, for_new), ("old", old, budget - for_new)):
            if not part:
                continue
            made = self.selector.select(pool.take(rows), part, seed)
            selected[rows], score[rows] = made.selected, made.score
            scorer[rows], reason[rows] = made.scorer, made.reason
            cluster[rows] = np.where(made.cluster < 0, -1, made.cluster + cluster.max() + 1)
            parts[name] = made.summary
        summary = {
            "selector": self.name,
            "seed": seed,
            "budget": budget,
            "n_pool": len(pool),
            "n_selected": int(selected.sum()),
            "k": int(cluster.max()) + 1,
            "new_share": self.share,
            "parts": parts,
        }
        return Selection(selected, cluster, scorer.tolist(), score, reason.tolist(), summary)
