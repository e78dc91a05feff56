"""Selectors that look at no feature: what every method has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adaptinf.config import SelectionConfig
from adaptinf.errors import BudgetError
from adaptinf.selection.budget import resolve_budget
from adaptinf.selection.pool import Needs, Pool, Selection, order_by_id
from adaptinf.selection.selector import register_selector


class RandomReplay:
    """Random experience replay: ``budget`` samples drawn uniformly without replacement from the whole pool.

    The draw is keyed by id, so it does not depend on the order of the pool.
    """

    name = "random"

    def needs(self) -> Needs:
        return Needs()

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        budget = resolve_budget(budget, len(pool))
        order = order_by_id(pool.ids)
        selected = np.zeros(len(pool), dtype=bool)
        selected[order[np.random.default_rng(seed).choice(len(pool), budget, replace=False)]] = True
        return Selection.unscored(selected, ("not drawn", "uniform draw"), _summary(self.name, selected, budget, seed))


class Sequential:
    """Sequential fine-tuning: all of the new samples and none of the old. The budget is checked but not applied."""

    name = "new_only"

    def needs(self) -> Needs:
        return Needs()

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        budget = resolve_budget(budget, len(pool))
        selected = np.array(pool.is_new, dtype=bool)
        if not selected.any():
            raise BudgetError("no sample of the pool is new", item="pool", remedy="mark the arriving samples in is_new")
        return Selection.unscored(selected, ("old", "new"), _summary(self.name, selected, budget, seed))


class Multitask:
    """Multi-task training: the whole pool. The budget is checked but not applied."""

    name = "full"

    def needs(self) -> Needs:
        return Needs()

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        budget = resolve_budget(budget, len(pool))
        selected = np.ones(len(pool), dtype=bool)
        return Selection.unscored(selected, ("left out", "whole pool"), _summary(self.name, selected, budget, seed))


def _summary(name: str, selected: NDArray[np.bool_], budget: int, seed: int) -> dict[str, object]:
    return {
        "selector": name,
        "seed": seed,
        "budget": budget,
        "n_pool": len(selected),
        "n_selected": int(selected.sum()),
        "k": 0,
    }


@register_selector("random")
def _random(_: SelectionConfig) -> RandomReplay:
    return RandomReplay()


@register_selector("new_only")
def _new_only(_: SelectionConfig) -> Sequential:
    return Sequential()


@register_selector("full")
def _full(_: SelectionConfig) -> Multitask:
    return Multitask()
