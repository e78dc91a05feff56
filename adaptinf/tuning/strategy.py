"""What a strategy is to the loop: a selector, and when and from what it trains."""

from __future__ import annotations

from dataclasses import dataclass

from adaptinf.config import UNBUDGETED, RunConfig
from adaptinf.errors import BudgetError, ConfigError
from adaptinf.selection import Selector, make_selector
from adaptinf.tuning.lineage import Carry

LITE_POOL_BUDGET = 0.5
"""LITE prunes always; this is its pool, as a share of all samples so far, where the configuration names none."""

STRATEGIES = ("sequential", "multitask", "random_replay", "paper", "released", "lite", "switch")

_SELECTORS = {"sequential": "new_only", "multitask": "full", "random_replay": "random"}


@dataclass(frozen=True)
class Strategy:
    """``budgeted``: selects ``config.budget`` samples a step, else all that it selects from. ``only_last``: trains
    once, at the last arrival (joint training). ``routed``: an adapter for every task, trained from the frozen base on
    its own samples alone, of which none stays in a pool. ``pool_budget``: size the pool is pruned to after a step, None
    keeps all. ``carry``: what the adapter of a step starts from."""

    name: str
    selector: Selector
    budgeted: bool
    only_last: bool
    routed: bool
    pool_budget: float | int | None
    carry: Carry

    def trains_at(self, step: int, steps: int) -> bool:
        return step == steps or not self.only_last

    def budget(self, wanted: float | int, n_seen: int, n_pool: int) -> int:
        """Samples to select: a share is one of the ``n_seen`` samples that could be chosen had none been given up (a
        routed strategy's: of the arriving dataset), never more than the pool holds.

        Raises BudgetError for a whole number larger than the pool.
        """
        if not self.budgeted:
            return n_pool
        if isinstance(wanted, float):
            return min(max(1, round(wanted * n_seen)), n_pool)
        if wanted > n_pool:
            raise BudgetError(
                f"asks for {wanted} samples of a pool of {n_pool}",
                item="budget",
                remedy="lower it, or give a share of the samples seen so far, such as 0.25",
            )
        return wanted

    def pool_size(self, n_seen: int, n_pool: int) -> int:
        """How many samples stay in the pool after a step."""
        wanted = self.pool_budget
        if wanted is None:
            return n_pool
        return min(n_pool, max(1, round(wanted * n_seen)) if isinstance(wanted, float) else wanted)


def make_strategy(config: RunConfig) -> Strategy:
    """The strategy that ``config.strategy`` names: one of STRATEGIES, or any registered selector.

    - ``sequential``: all of the arriving dataset, nothing older;
    - ``rehearsal``, ``instructalign``: that and ``selection.rehearsal`` older samples, of each task or of all;
    - ``multitask``: everything that ever arrived, trained on once at the end (the joint reference);
    - ``random_replay``: ``budget`` samples drawn uniformly from the pool;
    - ``paper``, ``released``, ``lite``: Adapt-inf, see :mod:`adaptinf.selection`; ``lite`` always prunes;
    - ``switch``: SwitchCIT, an adapter for every task and a router (``config.routing``); ``routing.selector`` chooses
      what of its task an adapter is trained on.
    """
    name, routed = config.strategy, config.strategy == "switch"
    chosen = config.routing.selector if routed else name
    selector = make_selector(_SELECTORS.get(chosen, chosen), config.selection)
    unbudgeted = chosen in UNBUDGETED
    for key in ("new_share", "text_share"):
        if unbudgeted and getattr(config.selection, key) is not None:
            raise ConfigError(
                f"has no effect on {name}, which asks no budget", item=f"selection.{key}", remedy="leave it out"
            )
    pool_budget = config.pruning.pool_budget
    if (routed or name in _SELECTORS) and pool_budget is not None:
        raise ConfigError(
            f"has no effect on {name}, which keeps no clustered pool", item="pruning.pool_budget", remedy="leave it out"
        )
    if routed and config.training.regulariser != "none":
        raise ConfigError(
            "keeps an adapter near earlier ones, and those of switch have nothing in common",
            item=f"training.regulariser={config.training.regulariser}",
            remedy="leave it out",
        )
    if routed and config.evaluation.prompts_together > 1:
        raise ConfigError(
            "puts requests into one prompt that switch may route apart",
            item="evaluation.prompts_together",
            remedy="leave it out",
        )
    if name == "lite" and pool_budget is None:
        pool_budget = LITE_POOL_BUDGET
    return Strategy(
        name,
        selector,
        budgeted=not unbudgeted,
        only_last=name == "multitask",
        routed=routed,
        pool_budget=pool_budget,
        carry="fresh" if routed else config.training.carry_lora,
    )
