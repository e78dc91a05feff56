"""Means over seeds and orders with their intervals, paired differences, and what the same score costs at random."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

MEASURES = (
    "average_accuracy", "learned_accuracy", "relative_gain", "forgetting", "worst_task", "strict", "final_nll",
    "near_duplicates", "n_trained", "selection_seconds", "training_seconds", "selection_flops", "training_flops",
    "zero_shot_average", "zero_shot_nll",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` runs and half the width of its 95 % interval (Student's t); NaN for a single run."""

    mean: float
    half: float
    n: int


@dataclass(frozen=True)
class Summary:
    """One strategy at one budget on one stream.

    ``gain`` is its average accuracy minus that of random replay at the same budget, or, of a strategy with settings of
    its own, minus the same without them; paired by seed and order. ``nll_gain`` is the same of the answers' NLL (below
    0 is better), ``random_budget`` the budget at which random replay is as accurate, ``random_budget_nll`` at which its
    answers are as likely.
    """

    stream: str
    budget: float
    strategy: str
    measures: dict[str, Estimate]
    gain: Estimate | None
    nll_gain: Estimate | None
    random_budget: float | None
    random_budget_nll: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """The mean with the 95 % interval of Student's t."""
    found = np.array(values, float)
    if len(found) < 2:
        return Estimate(float(found.mean()), float("nan"), len(found))
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return Estimate(float(found.mean()), float(half), len(found))


def summarise(rows: Sequence[dict[str, Any]]) -> list[Summary]:
    """Every strategy, stream by stream and budget by budget, the best first."""
    groups: dict[tuple[str, float, str], dict[tuple[int, int], dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["stream"], row["budget"], row["strategy"]][row["order"], row["seed"]] = row
    streams = {row["stream"] for row in rows}
    curves = {stream: _random_curve(rows, stream, "average_accuracy", "zero_shot_average", 1) for stream in streams}
    nll_curves = {stream: _random_curve(rows, stream, "final_nll", "zero_shot_nll", -1) for stream in streams}
    made = [
        Summary(
            stream,
            budget,
            strategy,
            {name: estimate(known) for name in MEASURES if (known := _known(runs.values(), name))},
            *(
                _paired(runs, groups.get((stream, budget, against(strategy)), {}), name)
                for name in ("average_accuracy", "final_nll")
            ),
            _cost(curves[stream], runs, "average_accuracy", 1),
            _cost(nll_curves[stream], runs, "final_nll", -1),
        )
        for (stream, budget, strategy), runs in groups.items()
    ]
    return sorted(made, key=lambda s: (s.stream, s.budget, -s.measures["average_accuracy"].mean, s.strategy))


def against(strategy: str) -> str:
    """What a strategy is compared with."""
    plain, *settings = strategy.split()
    return plain if settings else "random_replay"


def _known(rows: Any, name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _paired(runs: dict, others: dict, name: str) -> Estimate | None:
    shared = sorted(runs.keys() & others.keys())
    if not shared or runs is others:
        return None
    return estimate([runs[key][name] - others[key][name] for key in shared])


def _random_curve(
    rows: Sequence[dict[str, Any]], stream: str, name: str, untrained: str, sign: int
) -> tuple[np.ndarray, np.ndarray]:
    """Budgets and ``sign`` times the means of random replay, made non-decreasing; 0 is the untrained model."""
    found: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if row["stream"] == stream:
            if row[untrained] is not None:
                found[0.0].append(sign * row[untrained])
            if row["strategy"] == "random_replay":
                found[row["budget"]].append(sign * row[name])
    budgets = np.array(sorted(found))
    return budgets, np.maximum.accumulate([np.mean(found[budget]) for budget in budgets])


def _cost(curve: tuple[np.ndarray, np.ndarray], runs: dict, name: str, sign: int) -> float | None:
    """The least budget at which random replay is as good, by straight lines; None where it never is."""
    budgets, values = curve
    wanted = float(np.mean([sign * row[name] for row in runs.values()]))
    if len(budgets) < 2 or wanted > values[-1]:
        return None
    after = int(np.argmax(values >= wanted))
    if after == 0:
        return 0.0
    low, high = values[after - 1], values[after]
    return float(budgets[after - 1] + (budgets[after] - budgets[after - 1]) * (wanted - low) / (high - low))
