"""How each metric of ``adaptinf.evaluation.continual_metrics`` is called, explained and printed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from adaptinf.report.run_view import RunView
from adaptinf.report.units import MISSING, bare_percent, decimal, points

Kind = Literal["share", "difference", "fall", "percent", "number"]


@dataclass(frozen=True)
class Metric:
    """One metric; in ``formula``, R[i][j] is the score on task j after step i.

    ``higher`` says whether more is better; None where neither is. ``kind`` says what the number is: a share of one, a
    signed difference of shares, how far a share falls short, or a percentage already.
    """

    name: str
    label: str
    meaning: str
    formula: str = ""
    higher: bool | None = None
    kind: Kind = "number"
    main: bool = False

    def text(self, value: Any) -> str:
        """The value for a table; lists become comma-separated."""
        if isinstance(value, list):
            return ", ".join(self.text(item) for item in value) or MISSING
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return MISSING
        if not isinstance(value, (int, float)):
            return str(value)
        if self.kind in ("share", "fall"):
            return bare_percent(value)
        if self.kind == "difference":
            return points(value)
        return decimal(value, 1 if self.kind == "percent" else 4)

    @property
    def unit(self) -> str:
        return {"share": "%", "difference": "points", "fall": "points", "percent": "%", "number": ""}[self.kind]


CATALOGUE = (
    Metric(
        "average_accuracy",
        "Average accuracy",
        "mean score over all tasks at the end of the stream",
        "mean over j of R[T][j]; also Last, FAA, AP",
        True,
        "share",
        main=True,
    ),
    Metric(
        "mean_average_accuracy",
        "Mean average accuracy (MAA)",
        "average accuracy over the tasks seen so far, averaged over the steps",
        "mean over i of mean over j≤i of R[i][j]; also average incremental accuracy",
        True,
        "share",
        main=True,
    ),
    Metric(
        "mean_fine_tune_accuracy",
        "Fine-tune accuracy (MFT)",
        "score on each task right after training on it: plasticity",
        "mean over j of R[j][j]; also learning accuracy",
        True,
        "share",
        main=True,
    ),
    Metric(
        "worst_task",
        "Worst task",
        "lowest score of any task at the end",
        "min over j of R[T][j]",
        True,
        "share",
        main=True,
    ),
    Metric(
        "forgetting",
        "Forgetting",
        "how far each earlier task has fallen from its best score",
        "mean over j<T of (max over j≤i<T of R[i][j]) − R[T][j] (Chaudhry et al. 2018)",
        False,
        "fall",
        main=True,
    ),
    Metric(
        "forgetting_percent",
        "Forgetting, relative",
        "the fall from the best score, as a share of that score",
        "100 · mean over j<T of max(0, B[j] − R[T][j]) / B[j], B[j] = max over j≤i<T of R[i][j] (Adapt-∞)",
        False,
        "percent",
        main=True,
    ),
    Metric(
        "backward_transfer",
        "Backward transfer (BWT)",
        "what later training did to earlier tasks; a weak score just after training flatters it: read it beside MFT",
        "mean over j<T of R[T][j] − R[j][j] (GEM)",
        True,
        "difference",
        main=True,
    ),
    Metric(
        "forward_transfer",
        "Forward transfer (FWT)",
        "what earlier training did to a task before its data arrived",
        "mean over j≥2 of R[j−1][j] − R[0][j] (GEM)",
        True,
        "difference",
        main=True,
    ),
    Metric(
        "gain_over_zero_shot",
        "Gain over the base model",
        "average accuracy at the end minus that of the untrained model",
        "mean over j of R[T][j] − R[0][j]",
        True,
        "difference",
        main=True,
    ),
    Metric(
        "relative_gain_learned",
        "Relative gain",
        "final score as a percentage of the score right after training on the task",
        "100 · mean over j of R[T][j] / R[j][j] (Scialom et al. 2022)",
        True,
        "percent",
        main=True,
    ),
    Metric(
        "relative_gain",
        "Relative gain, chosen reference",
        "final score as a percentage of the configured reference",
        "100 · mean over j of R[T][j] / B[j]",
        True,
        "percent",
    ),
    Metric(
        "relative_gain_zero_shot",
        "Relative gain over zero-shot",
        "final score as a percentage of the base model's",
        "100 · mean over j of R[T][j] / R[0][j]",
        True,
        "percent",
    ),
    Metric(
        "relative_gain_single_task",
        "Relative gain over single-task",
        "final score as a percentage of training on the task alone",
        "100 · mean over j of R[T][j] / S[j]",
        True,
        "percent",
    ),
    Metric(
        "relative_gain_joint",
        "Relative gain over joint training",
        "final score as a percentage of training on all tasks at once",
        "100 · mean over j of R[T][j] / U[j]",
        True,
        "percent",
    ),
    Metric(
        "relative_change_zero_shot",
        "Relative change over zero-shot",
        "relative gain over zero-shot, minus 100",
        "100 · mean over j of R[T][j] / R[0][j] − 100",
        True,
        "percent",
    ),
    Metric(
        "zero_shot_average",
        "Base model average",
        "mean score of the untrained model",
        "mean over j of R[0][j]",
        None,
        "share",
    ),
    Metric(
        "weighted_average_accuracy",
        "Weighted average accuracy",
        "average accuracy weighted by the given task weights",
        "Σ w[j] R[T][j] / Σ w[j]",
        True,
        "share",
    ),
    Metric(
        "forgetting_avalanche",
        "Forgetting (Avalanche)",
        "backward transfer with the opposite sign",
        "mean over j<T of R[j][j] − R[T][j]",
        False,
        "fall",
    ),
    Metric(
        "backward_transfer_over_T",
        "Backward transfer, over T",
        "the convention of the GEM, SAPT and TRACE code",
        "1/T · sum over j<T of R[T][j] − R[j][j]",
        True,
        "difference",
    ),
    Metric(
        "forward_transfer_over_T",
        "Forward transfer, over T",
        "the convention of the GEM code",
        "1/T · sum over j≥2 of R[j−1][j] − R[0][j]",
        True,
        "difference",
    ),
    Metric(
        "forward_transfer_single_task",
        "Forward transfer over single-task",
        "against a model trained on the task alone",
        "mean over j of R[j][j] − S[j] (SAPT)",
        True,
        "difference",
    ),
    Metric(
        "single_task_gap",
        "Gap to single-task",
        "single-task training minus average accuracy",
        "mean over j of S[j] − R[T][j]",
        False,
        "fall",
    ),
    Metric(
        "joint_gap",
        "Gap to joint training",
        "joint training minus average accuracy",
        "mean over j of U[j] − R[T][j]",
        False,
        "fall",
    ),
    Metric(
        "average_accuracy_per_stage",
        "Average accuracy per step",
        "mean over the tasks seen so far",
        "mean over j≤i of R[i][j]",
        None,
        "share",
    ),
    Metric(
        "relative_gain_per_stage",
        "Relative gain per step",
        "relative gain over the tasks seen so far",
        "100 · mean over j≤i of R[i][j] / B[j]",
        None,
        "percent",
    ),
    Metric(
        "forgetting_per_task",
        "Forgetting per task",
        "the summands of forgetting",
        "(max over j≤i<T of R[i][j]) − R[T][j]",
        None,
        "fall",
    ),
)

_BY_NAME = {metric.name: metric for metric in CATALOGUE}


def metrics_of(runs: Iterable[RunView]) -> list[Metric]:
    """Every metric that one of the runs has, known ones first; an unknown one is printed by its own name."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    known = [metric for metric in CATALOGUE if metric.name in names]
    return known + [Metric(name, name, "") for name in names if name not in _BY_NAME]


def value_of(run: RunView, name: str) -> float:
    """A metric as a number; NaN where it was not measured or is a list."""
    value = run.metrics.get(name)
    return float(value) if isinstance(value, (int, float)) else float("nan")


def is_measured(run: RunView, metric: Metric) -> bool:
    value = run.metrics.get(metric.name)
    return any(item is not None for item in value) if isinstance(value, list) else value is not None
