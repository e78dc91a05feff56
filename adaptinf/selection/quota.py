"""A fixed share of the budget for one part of the pool: what has just arrived, or what has no pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adaptinf.errors import DataError
from adaptinf.selection.budget import resolve_budget
from adaptinf.selection.pool import Needs, Pool, Selection

if TYPE_CHECKING:
    from adaptinf.selection.selector import Selector


class Quota:
    """Any selector, asked twice: for ``round(share * budget)`` of the samples inside a part of the pool, and for the
    rest of those outside it, each without the other. A side that holds fewer than its part leaves the rest to the
    other.

    The clusters of the second side are numbered after those of the first; the summary of each side is under ``parts``.

    Args:
        selector: makes the choice on either side.
        share: of the budget, for the samples inside.
        key: the setting's name, under which the share stands in the summary.
        sides: names of the inside and the outside.
        inside: bool [N] of a pool.
    """

    def __init__(
        self,
        selector: Selector,
        share: float,
        *,
        key: str,
        sides: tuple[str, str],
        inside: Callable[[Pool], NDArray[np.bool_]],
    ) -> None:
        self.name, self.selector, self.share = selector.name, selector, share
        self.key, self.sides, self.inside = key, sides, inside

    def needs(self) -> Needs:
        return self.selector.needs()

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        """Decide over every sample of the pool. Raises what the selector raises."""
        budget = resolve_budget(budget, len(pool))
        mask = self.inside(pool)
        inside, outside = np.flatnonzero(mask), np.flatnonzero(~mask)
        for_inside = min(max(round(self.share * budget), budget - len(outside)), len(inside))
        selected, score = np.zeros(len(pool), bool), np.full(len(pool), np.nan)
        cluster = np.full(len(pool), -1, np.int32)
        scorer, reason = np.full(len(pool), "", object), np.full(len(pool), "left out: no budget for its side", object)
        parts: dict[str, Any] = {}
        for name, rows, part in zip(self.sides, (inside, outside), (for_inside, budget - for_inside), strict=True):
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
            self.key: self.share,
            "parts": parts,
        }
        return Selection(selected, cluster, scorer.tolist(), score, reason.tolist(), summary)


def new_share(selector: Selector, share: float) -> Quota:
    """``share`` of the budget for the samples that arrive at this step, the rest for the older ones."""
    return Quota(selector, share, key="new_share", sides=("new", "old"), inside=lambda pool: pool.is_new)


def text_share(selector: Selector, share: float) -> Quota:
    """``share`` of the budget for samples without pictures, the rest for those with some.

    The published mixes are 1, 0.5 (40 of 80 thousand) and 0.875 (70 of 80).

    Source: MLAN (arXiv:2411.10557), language and vision instructions; wang-research-lab/mlan.
    """
    return Quota(selector, share, key="text_share", sides=("text", "pictures"), inside=_text_only)


def _text_only(pool: Pool) -> NDArray[np.bool_]:
    if "n_images" not in pool.scores:
        raise DataError(
            "has no column 'n_images'",
            item="pool",
            remedy="selection.text_share needs each sample's number of pictures",
        )
    return np.asarray(pool.scores["n_images"]) == 0
