"""How good a router is: accuracy, confusion, calibration, abstention, and what wrong routes cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptinf.errors import DataError

BASE = "base"
"""Where an abstained request goes, as a column of the confusion table."""


def confusion(true: Sequence[str], routed: Sequence[str | None], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """``{true task: {routed task or "base": requests}}`` over all tasks; requests of no known task under "base" too."""
    _same_length(true, routed)
    known = [*names, BASE]
    table = {row: dict.fromkeys(known, 0) for row in known}
    for one, other in zip(true, routed, strict=True):
        table[one if one in table else BASE][BASE if other is None else other] += 1
    return table


def routing_accuracy(true: Sequence[str], routed: Sequence[str | None]) -> float:
    """Share of requests that reach their own task; an abstention does not. NaN of none."""
    _same_length(true, routed)
    return float(np.mean([one == other for one, other in zip(true, routed, strict=True)])) if true else float("nan")


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> float:
    """``sum_b |B_b| / N * |mean confidence - share correct|`` over ``bins`` equal bins of [0, 1]; NaN of none.

    A confidence on a border belongs to the bin below, 0 to the first.

    Source: Guo et al. 2017 (arXiv:1706.04599), equation 3, with 15 bins.
    """
    sure, right = _pair(confidence, correct)
    if not len(sure):
        return float("nan")
    if bins < 1 or not ((sure >= 0) & (sure <= 1)).all():
        raise DataError("confidences lie in [0, 1], bins are 1 or more", item="expected_calibration_error")
    place = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=sure - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a positive has a larger score than a negative, equal scores counting half: the area under the
    receiver operating characteristic. NaN where one side is empty."""
    values, wanted = _pair(scores, positive)
    wanted = wanted.astype(bool)
    n = int(wanted.sum())
    if n in (0, len(values)):
        return float("nan")
    _, place, copies = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(copies) - (copies - 1) / 2)[place]
    return float((ranks[wanted].sum() - n * (n + 1) / 2) / (n * (len(values) - n)))


def roc(scores: ArrayLike, positive: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates at every threshold from the highest score down, from (0, 0) to (1, 1)."""
    values, wanted = _pair(scores, positive)
    thresholds = np.unique(values)[::-1]
    true = np.array([(values[wanted > 0] >= t).mean() for t in thresholds])
    false = np.array([(values[wanted == 0] >= t).mean() for t in thresholds])
    return np.r_[0.0, false], np.r_[0.0, true]


def oracle_gap(routed_scores: Sequence[float], oracle_scores: Sequence[float]) -> dict[str, float]:
    """``gap``: mean over the tasks of the score through the oracle's routes minus that through the router's;
    ``share``: 100 times the routed mean over the oracle's, NaN where that is 0."""
    _same_length(routed_scores, oracle_scores)
    routed, oracle = float(np.mean(routed_scores)), float(np.mean(oracle_scores))
    return {"gap": oracle - routed, "share": 100 * routed / oracle if oracle else float("nan")}


def _pair(one: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(f"shapes {first.shape} and {second.shape}", item="routing", remedy="give one number a request")
    if not (np.isfinite(first).all() and np.isin(second, (0, 1)).all()):
        raise DataError("scores are finite and labels 0 or 1", item="routing", remedy="look at the requests' scores")
    return first, second


def _same_length(one: Sequence[object], other: Sequence[object]) -> None:
    if len(one) != len(other):
        raise DataError(f"{len(one)} and {len(other)} entries", item="routing", remedy="give one of each a request")
