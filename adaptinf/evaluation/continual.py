"""Continual-learning metrics of a score matrix, every variant under its own name."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptinf.errors import DataError

Scores = NDArray[np.float64]
_REMEDY = "give finite numbers, and NaN where nothing was measured"

Reference = Literal["learned", "zero_shot", "single_task", "joint"]


def continual_metrics(
    matrix: ArrayLike,
    *,
    zero_shot: ArrayLike | None = None,
    single_task: ArrayLike | None = None,
    joint: ArrayLike | None = None,
    reference: Reference | ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> dict[str, float | list[float]]:
    """Every continual-learning metric of a stream of T tasks, one learned at each stage.

    ``matrix`` [stages, tasks] holds R[i][j], the score on task j after stage i (here counted from 1; larger is better,
    any scale), NaN where nothing was measured. Task j is learned at stage j. Fewer stages than tasks describe an
    unfinished stream: T is the number of stages, and later tasks do not count. Vectors over the tasks: ``zero_shot``
    Z[j] of the untrained model, ``single_task`` S[j] of a model trained on task j alone, ``joint`` U[j] of a model
    trained on all tasks at once, ``weights`` w[j] such as test set sizes.

    Nothing is filled in: a metric that reads an unmeasured score, divides by a score that is not positive, or lacks
    its argument is NaN. With T = 1 everything about earlier tasks is NaN. All keys are always present.

    ============================== =================================================================================
    average_accuracy               mean_j R[T][j]; also Last, FAA, MFN, AP (GEM)
    average_accuracy_per_stage     for each i: mean_{j<=i} R[i][j]
    mean_average_accuracy          mean of the above over the stages; also MAA, MAP, average incremental accuracy
    mean_fine_tune_accuracy        mean_j R[j][j]; also MFT, learning accuracy, New.ACC (plasticity)
    weighted_average_accuracy      sum_j w[j] R[T][j] / sum_j w[j]
    worst_task                     min_j R[T][j]
    backward_transfer              1/(T-1) sum_{j<T} (R[T][j] - R[j][j]) (GEM, the paper)
    backward_transfer_over_T       1/T sum_{j<T} (R[T][j] - R[j][j]) (GEM, SAPT and TRACE code)
    forgetting                     1/(T-1) sum_{j<T} (max_{j<=i<T} R[i][j] - R[T][j]) (Chaudhry et al. 2018)
    forgetting_avalanche           1/(T-1) sum_{j<T} (R[j][j] - R[T][j]) (Avalanche)
    forgetting_per_task            the summands of ``forgetting``, for j < T
    forgetting_percent             100 mean_{j<T} max(0, B[j] - R[T][j]) / B[j], B[j] = max_{j<=i<T} R[i][j] (Adapt-inf)
    forward_transfer               1/(T-1) sum_{j>=2} (R[j-1][j] - Z[j]) (GEM, the paper)
    forward_transfer_over_T        1/T sum_{j>=2} (R[j-1][j] - Z[j]) (GEM code)
    forward_transfer_single_task   mean_j (R[j][j] - S[j]) (SAPT)
    relative_gain                  100 mean_j R[T][j] / B[j], B chosen by ``reference``: "learned" B[j] = R[j][j],
                                   "zero_shot" Z, "single_task" S, "joint" U, or a vector (Adapt-inf, InsCL, Scialom)
    relative_gain_per_stage        for each i: 100 mean_{j<=i} R[i][j] / B[j] (Scialom et al. 2022, sequential figures)
    relative_gain_learned,         ``relative_gain`` for each reference
    _zero_shot, _single_task,
    _joint
    relative_change_zero_shot      100 mean_j (R[T][j] / Z[j] - 1) (Scialom et al. 2022, other figures)
    zero_shot_average              mean_j Z[j]
    gain_over_zero_shot            mean_j (R[T][j] - Z[j]) (TRACE's delta)
    single_task_gap, joint_gap     mean_j S[j] and mean_j U[j], minus average_accuracy
    ============================== =================================================================================

    Never read backward transfer alone: a bad R[j][j] makes it look good. Put mean_fine_tune_accuracy beside it.

    Raises:
        DataError: shapes that do not fit, infinite scores, more stages than tasks, bad weights or an unknown reference.
    """
    scores = _matrix(matrix)
    stages, tasks = scores.shape
    base, alone, together = (
        _vector(values, name, tasks)[:stages]
        for values, name in ((zero_shot, "zero_shot"), (single_task, "single_task"), (joint, "joint"))
    )
    share = _weights(weights, tasks)[:stages]
    R = scores[:, :stages]
    final, learned = R[-1], np.diagonal(R)
    references = {"learned": learned, "zero_shot": base, "single_task": alone, "joint": together}
    chosen = _reference(reference, references, tasks)[:stages]

    per_stage = [_mean(R[i, : i + 1]) for i in range(stages)]
    change = final[:-1] - learned[:-1]
    best = np.array([R[j:-1, j].max() for j in range(stages - 1)])
    lost = best - final[:-1]
    lost_share = np.where(lost <= 0, 0.0, _ratio(lost, best))
    ahead = np.diagonal(R, offset=1) - base[1:]
    relative = {f"relative_gain_{name}": 100 * _mean(_ratio(final, B)) for name, B in references.items()}
    return {
        "average_accuracy": _mean(final),
        "average_accuracy_per_stage": per_stage,
        "mean_average_accuracy": _mean(np.array(per_stage)),
        "mean_fine_tune_accuracy": _mean(learned),
        "weighted_average_accuracy": float((share * final).sum() / share.sum()),
        "worst_task": float(final.min()),
        "backward_transfer": _mean(change),
        "backward_transfer_over_T": _mean(change) * (stages - 1) / stages,
        "forgetting": _mean(lost),
        "forgetting_avalanche": _mean(learned[:-1] - final[:-1]),
        "forgetting_per_task": lost.tolist(),
        "forgetting_percent": 100 * _mean(lost_share),
        "forward_transfer": _mean(ahead),
        "forward_transfer_over_T": _mean(ahead) * (stages - 1) / stages,
        "forward_transfer_single_task": _mean(learned - alone),
        "relative_gain": 100 * _mean(_ratio(final, chosen)),
        "relative_gain_per_stage": [100 * _mean(_ratio(R[i, : i + 1], chosen[: i + 1])) for i in range(stages)],
        **relative,
        "relative_change_zero_shot": relative["relative_gain_zero_shot"] - 100,
        "zero_shot_average": _mean(base),
        "gain_over_zero_shot": _mean(final - base),
        "single_task_gap": _mean(alone - final),
        "joint_gap": _mean(together - final),
    }


def _mean(values: Scores) -> float:
    """NaN over nothing, and whenever one value is NaN."""
    return float(values.mean()) if values.size else float("nan")


def _ratio(values: Scores, reference: Scores) -> Scores:
    """NaN where the reference is not positive."""
    return values / np.where(reference > 0, reference, np.nan)


def _matrix(matrix: ArrayLike) -> Scores:
    scores = _floats(matrix, "matrix")
    if scores.ndim != 2 or not scores.size:
        raise DataError(f"has shape {scores.shape}", item="matrix", remedy="give one row a stage and one column a task")
    stages, tasks = scores.shape
    if stages > tasks:
        raise DataError(
            f"has {stages} stages for {tasks} tasks",
            item="matrix",
            remedy="each row follows the learning of one task; the untrained model's row belongs into zero_shot",
        )
    return scores


def _vector(values: ArrayLike | None, name: str, tasks: int) -> Scores:
    """One score a task, all NaN if there is none."""
    if values is None:
        return np.full(tasks, np.nan)
    vector = _floats(values, name)
    if vector.shape != (tasks,):
        raise DataError(f"has shape {vector.shape}", item=name, remedy=f"give one number for each of the {tasks} tasks")
    return vector


def _weights(weights: ArrayLike | None, tasks: int) -> Scores:
    vector = _vector(weights, "weights", tasks)
    if weights is not None and not (np.all(vector >= 0) and vector[0] > 0):
        raise DataError(f"are {vector.tolist()}", item="weights", remedy="give numbers >= 0, the first one > 0")
    return vector


def _reference(reference: Reference | ArrayLike | None, named: dict[str, Scores], tasks: int) -> Scores:
    if isinstance(reference, str):
        if reference not in named:
            raise DataError(
                f"is {reference!r}", item="reference", remedy=f"choose one of {', '.join(named)}, or a vector"
            )
        return named[reference]
    return _vector(reference, "reference", tasks)


def _floats(values: ArrayLike, name: str) -> Scores:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"is no array of numbers ({error})", item=name, remedy=_REMEDY) from error
    if np.isinf(array).any():
        raise DataError("holds an infinite score", item=name, remedy=_REMEDY)
    return array
