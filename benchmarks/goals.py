"""The goals, as ratios of what one run measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.results import GoalResult, Measurement, Report

Quantity = Literal["time", "memory", "bandwidth"]


@dataclass(frozen=True)
class Goal:
    """``quantity`` of ``of`` over that of ``over``, both ``(case, contender)``, must be at most or at least ``bound``.

    ``over`` None: the quantity itself ("bandwidth" is a share of the machine's copy bandwidth).
    """

    suite: Literal["cpu", "gpu"]
    what: str
    quantity: Quantity
    of: tuple[str, str]
    over: tuple[str, str] | None
    relation: Literal["<=", ">="]
    bound: float


def _goals() -> tuple[Goal, ...]:
    return ()


GOALS = _goals()


def judge(report: Report, goals: tuple[Goal, ...] = GOALS) -> list[GoalResult]:
    """Every goal of the report's suite: its figure and whether it is met; no figure where a side was not measured.

    At tiny scale figures mean nothing, so none is called met or missed.
    """
    return [_judge(report, goal) for goal in goals if goal.suite == report.suite]


def _judge(report: Report, goal: Goal) -> GoalResult:
    bound = f"{goal.relation} {goal.bound:g}" + ("" if goal.over is None else "x")
    sides = [goal.of] + ([goal.over] if goal.over else [])
    values = []
    for case, contender in sides:
        value, reason = _value(report, case, contender, goal.quantity)
        if value is None:
            return GoalResult(goal.what, bound, None, None, reason)
        values.append(value)
    if goal.over and values[1] == 0:
        return GoalResult(goal.what, bound, None, None, f"{goal.over[1]} of {goal.over[0]}: {goal.quantity} is 0")
    figure = values[0] / values[1] if goal.over else values[0]
    if report.scale == "tiny":
        return GoalResult(goal.what, bound, figure, None, "tiny shapes: no verdict")
    return GoalResult(goal.what, bound, figure, figure <= goal.bound if goal.relation == "<=" else figure >= goal.bound)


def _value(report: Report, case: str, contender: str, quantity: Quantity) -> tuple[float | None, str]:
    result = next((one for one in report.cases if one.case == case), None)
    if result is None:
        return None, f"{case} was not run"
    found = result.find(contender)
    if found is None:
        return None, f"{contender} of {case}: {result.reason or 'no such contender'}"
    value = _quantity(found, quantity)
    return value, "" if value is not None else f"{contender} of {case}: {found.reason or f'no {quantity}'}"


def _quantity(found: Measurement, quantity: Quantity) -> float | None:
    if quantity == "time":
        return found.times["median"] if found.times else None
    return found.memory if quantity == "memory" else found.bandwidth
