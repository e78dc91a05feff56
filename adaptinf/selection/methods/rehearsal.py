"""Rehearsal: all that arrives, and a few of the older samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adaptinf.config import SelectionConfig
from adaptinf.errors import BudgetError
from adaptinf.selection.budget import Budget, resolve_budget
from adaptinf.selection.pool import Needs, Pool, Selection, order_by_id
from adaptinf.selection.selector import register_selector


class Rehearsal:
    """The whole arriving dataset and ``amount`` of the older samples, drawn uniformly without replacement: a share, or
    a number of samples of which there may be fewer. The budget is checked but not applied.

    ``rehearsal`` takes ``amount`` of each earlier task (Scialom et al.: 1 %, which is 1,000 of their tasks' 100,000).
    ``instructalign`` takes it of all older samples together (InstructAlign: 1,000 of the data that its model was first
    tuned on, here what has arrived before). Every step draws anew, by the ids alone. A share is one of the samples that
    are still in the pool, rounded half up and never less than one.

    The sources differ: Scialom et al. draw with replacement, which can only lower the number of distinct samples;
    InstructAlign's other objectives (denoising, translation) are no choice of samples. CALM rehearses too, in
    pre-training; no amount of it was found.

    Source: Scialom et al. 2022, ThomasScialom/T0_continual_learning, ``data_handler.py``; InstructAlign
    (arXiv:2305.13627), HLTCHKUST/InstructAlign, ``continual_type=rehearsal``.
    """

    def __init__(self, name: str, amount: Budget, *, each_task: bool) -> None:
        self.name, self.amount, self.each_task = name, amount, each_task

    def needs(self) -> Needs:
        return Needs()

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        """Decide over every sample of the pool. Raises BudgetError for a budget that the pool cannot have, for an
        impossible amount, and where no sample is new."""
        budget = resolve_budget(budget, len(pool))
        new = np.array(pool.is_new, dtype=bool)
        if not new.any():
            raise BudgetError("no sample of the pool is new", item="pool", remedy="mark the arriving samples in is_new")
        selected, rng = new.copy(), np.random.default_rng(seed)
        rehearsed: dict[str, int] = {}
        for name, rows in self._sources(pool, ~new).items():
            rehearsed[name] = resolve_budget(self.amount, len(rows), capped=True)
            selected[rng.choice(rows, rehearsed[name], replace=False)] = True
        return Selection(
            selected=selected,
            cluster=np.full(len(pool), -1, np.int32),
            scorer=[""] * len(pool),
            score=np.full(len(pool), np.nan),
            reason=np.where(new, "new", np.where(selected, "drawn for rehearsal", "not drawn")).tolist(),
            summary={
                "selector": self.name,
                "seed": seed,
                "budget": budget,
                "n_pool": len(pool),
                "n_selected": int(selected.sum()),
                "k": 0,
                "rehearsed": rehearsed,
            },
        )

    def _sources(self, pool: Pool, old: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
        """The older samples' rows, sorted by id, of each task or all together."""
        rows = np.array([row for row in order_by_id(pool.ids) if old[row]], np.int64)
        if not self.each_task:
            return {"older": rows} if len(rows) else {}
        tasks = np.array(pool.tasks)[rows]
        return {str(task): rows[tasks == task] for task in np.unique(tasks)}


@register_selector("rehearsal")
def _rehearsal(config: SelectionConfig) -> Rehearsal:
    return Rehearsal("rehearsal", config.rehearsal, each_task=True)


@register_selector("instructalign")
def _instructalign(config: SelectionConfig) -> Rehearsal:
    return Rehearsal("instructalign", config.rehearsal, each_task=False)
