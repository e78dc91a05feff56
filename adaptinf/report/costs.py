"""What choosing cost and what it saved, from the timings of the stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adaptinf.report.colours import SERIES
from adaptinf.report.run_view import STAGES, RunView, Step

Unit = Literal["seconds", "flops"]

CHOOSING = ("features", "selection", "pool")
"""The stages that decide: the pass over the pool, the selection itself, and the pruning of the pool."""

TRAINING_COLOUR = SERIES[7]

STAGE_KEY = (
    ("features", SERIES[0], "features: the pass over the pool"),
    ("selection", SERIES[1], "selection: clustering and drawing"),
    ("pool", SERIES[2], "pruning of the pool"),
    ("training", TRAINING_COLOUR, "training"),
)
"""The stages of a cost bar: name, colour, words."""


@dataclass(frozen=True)
class Costs:
    """Totals in seconds or in FLOP over the steps that were trained; NaN where nothing was measured.

    ``training_whole_pool`` is an extrapolation, ``sum_t training_t / n_selected_t * n_pool_t``: each step's measured
    cost per selected sample, times the samples that it could have trained on.
    """

    stages: dict[str, float]
    training_whole_pool: float

    @property
    def choosing(self) -> float:
        return sum(self.stages[stage] for stage in CHOOSING)

    @property
    def training(self) -> float:
        return self.stages["training"]

    @property
    def saved(self) -> float:
        """Training not done because of the selection."""
        return self.training_whole_pool - self.training

    @property
    def net(self) -> float:
        """Saved minus what choosing cost; negative when choosing cost more."""
        return self.saved - self.choosing


def costs(run: RunView, unit: Unit) -> Costs:
    """Costs of the steps whose training is complete; a stage that such a step does not have costs nothing."""
    steps = [step for step in run.learning_steps if "training" in step.costs]
    if not steps:
        return Costs(dict.fromkeys(STAGES, float("nan")), float("nan"))
    stages = {stage: sum(_of(step, stage, unit) for step in steps) for stage in STAGES}
    return Costs(stages, sum(_whole_pool(step, unit) for step in steps))


def _whole_pool(step: Step, unit: Unit) -> float:
    if not step.n_selected or not step.n_pool:
        return float("nan")
    return _of(step, "training", unit) / step.n_selected * step.n_pool


def _of(step: Step, stage: str, unit: Unit) -> float:
    cost = step.costs.get(stage)
    return getattr(cost, unit) if cost is not None else 0.0
