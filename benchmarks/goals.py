"""The goals, as ratios of what one run measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.results import GoalResult, Measurement, Report

Quantity = Literal["time", "memory", "bandwidth", "operations"]


@dataclass(frozen=True)
class Goal:
    """``quantity`` of ``of`` over that of ``over``, both ``(case, contender)``, must be at most or at least ``bound``.

    ``over`` None: the quantity itself ("bandwidth" is a share of the machine's copy bandwidth). "operations" are what a
    contender counted, for time has other reasons too.
    """

    suite: Literal["cpu", "gpu"]
    what: str
    quantity: Quantity
    of: tuple[str, str]
    over: tuple[str, str] | None
    relation: Literal["<=", ">="]
    bound: float


def _ratio(
    suite: str, what: str, case: str, of: str, over: str, relation: str, bound: float, quantity: str = "time"
) -> Goal:
    """Two contenders of one case."""
    return Goal(suite, what, quantity, (case, of), (case, over), relation, bound)


def _seconds(what: str, case: str, bound: float) -> Goal:
    """Of our implementation on a GPU."""
    return Goal("gpu", f"{what}: seconds", "time", (case, "native"), None, "<=", bound)


def _sketched(k: int) -> str:
    return f"capture, sjlt k={k}"


_LORA, _LINEAR = "LoRA r=8 + SJLT", "full Linear"
_ADAM = "capture, sjlt + adam"
_K, _SK = "kmeans", "scikit-learn"
_FL, _WIDEST, _MOST = "flash-kmeans", "kmeans-1000000x1536-1000", "kmeans-10000000x128-20000"
_SD = "semdedup-reference"
_WIDE, _NARROW = "token-scores-128k", "token-scores-49k"

GOALS = (
    _ratio("cpu", f"{_LORA} k=8192 / plain", "pass-lora", _sketched(8192), "plain", "<=", 1.0),
    _ratio("cpu", f"{_LORA} k=8192 / plain, ten times the model", "pass-lora-10x", _sketched(8192), "plain", "<=", 1.0),
    _ratio("cpu", "loop + TRAK / ours, k=512", "pass-lora", "loop + trak k=512", _sketched(512), ">=", 8),
    _ratio("cpu", "loop + TRAK / ours, k=2048", "pass-lora", "loop + trak k=2048", _sketched(2048), ">=", 28),
    _ratio("cpu", "loop + TRAK / ours, k=8192", "pass-lora", "loop + trak k=8192", _sketched(8192), ">=", 100),
    _ratio(
        "cpu", "one middle layer / full step", "pass-middle", "extract, middle layer", "plain, all weights", "<=", 0.6
    ),
    _ratio("cpu", f"{_LINEAR}, xorts / plain", "pass-linear", "capture, xorts", "plain", "<=", 0.85),
    _ratio("cpu", f"{_LINEAR}, sjlt + Adam / plain", "pass-linear", _ADAM, "plain", "<=", 1.0),
    _ratio("cpu", f"{_LINEAR}, sjlt + Adam / plain", "pass-linear", _ADAM, "plain", "<=", 1.0, "memory"),
    _ratio("cpu", "Opacus / full Linear, sjlt + Adam", "pass-linear", "opacus", _ADAM, ">=", 1.45),
    _ratio("cpu", "TRAK / project dense signs", "project-rademacher", "trak BasicProjector", "native", ">=", 35),
    _ratio("cpu", "token_scores / head, V=49k", _NARROW, "native", "head, frozen", "<=", 1.1),
    _ratio("cpu", "token_scores / head, V=128k", _WIDE, "native", "head, frozen", "<=", 1.1),
    Goal("cpu", "token_scores, V=128k / V=49k: O(T)", "memory", (_WIDE, "native"), (_NARROW, "native"), "<=", 1.1),
    _ratio("cpu", "LESS / ours, from samples to features", "less", "less", "extract", ">=", 10),
    _ratio("cpu", "SemDeDup's rule in torch / ours", "semdedup-reference", "torch", "native", ">=", 10),
    Goal("cpu", "SemDeDup's rule: bytes added", "memory", ("semdedup-reference", "native"), None, "<=", 60e6),
    Goal("cpu", "greedy on copies of one row: seconds", "time", ("semdedup-copies", "native"), None, "<=", 0.03),
    _ratio("cpu", "scikit-learn / k-means, 100000x128, K=256", f"{_K}-100000x128-256", _SK, "native", ">=", 2.6),
    _ratio("cpu", "faiss / k-means, 100000x128, K=256", f"{_K}-100000x128-256", "faiss", "native", ">=", 2.6),
    _ratio("cpu", "scikit-learn / k-means, 50000x512, K=1000", f"{_K}-50000x512-1000", _SK, "native", ">=", 2.1),
    _ratio("cpu", "scikit-learn / k-means, 20000x2048, K=100", f"{_K}-20000x2048-100", _SK, "native", ">=", 2.5),
    _ratio("cpu", "scikit-learn / k-means, 64 of 2000x64, K=16", f"{_K}-64-of-2000x64-16", _SK, "native", ">=", 5.5),
    _ratio(
        "cpu", "sklearnex / k-means, 64 of 2000x64, K=16", f"{_K}-64-of-2000x64-16", "sklearnex", "native", ">=", 5.5
    ),
    _ratio(
        "cpu", "torch / k-means, 64 of 2000x64, K=16", f"{_K}-64-of-2000x64-16", "torch, batched", "native", ">=", 9
    ),
    _ratio("cpu", "faiss / k-means, 64 of 2000x64, K=16", f"{_K}-64-of-2000x64-16", "faiss", "native", ">=", 9),
    _ratio("cpu", "faiss / k-means, 40000x768, K=4000", f"{_K}-40000x768-4000", "faiss", "native", ">=", 2.2),
    _ratio("cpu", "k-means beside two busy processes / alone", "kmeans-busy", "native, busy", "native", "<=", 2.1),
    _ratio(
        "cpu",
        "k-means and SemDeDup of 1,000,000 x 384, K=1000 / their products in bfloat16",
        f"{_K}-1000000x384-1000-dedup",
        "native",
        "products in bfloat16",
        "<=",
        1.3,
    ),
    _ratio(
        "cpu", "k-means after 1 % changed: refit / warm start", "kmeans-warm", "refit", "warm", ">=", 10, "operations"
    ),
    _ratio("cpu", "k-means after 1 % changed / one iteration", "kmeans-warm", "warm", "one iteration", "<=", 1.5),
    _ratio("gpu", f"{_LORA} k=8192 / plain, 1B", "pass-lora-1b", _sketched(8192), "plain", "<=", 1.03),
    _ratio("gpu", f"{_LORA} k=8192 / plain, 1B", "pass-lora-1b", _sketched(8192), "plain", "<=", 1.02, "memory"),
    _ratio("gpu", f"{_LORA} k=8192 / plain, 8B", "pass-lora-8b", _sketched(8192), "plain", "<=", 1.03),
    _ratio("gpu", f"{_LORA} k=8192 / plain, 8B", "pass-lora-8b", _sketched(8192), "plain", "<=", 1.02, "memory"),
    _ratio(
        "gpu",
        "one middle layer / full step",
        "pass-middle-1b",
        "extract, middle layer",
        "plain, all weights",
        "<=",
        0.6,
    ),
    _ratio("gpu", f"{_LINEAR}, xorts / plain", "pass-linear-1b", "capture, xorts", "plain", "<=", 0.75),
    _ratio("gpu", f"{_LINEAR}, sjlt / plain", "pass-linear-1b", "capture, sjlt", "plain", "<=", 1.1),
    _ratio("gpu", f"{_LINEAR}, sjlt + Adam / plain", "pass-linear-1b", _ADAM, "plain", "<=", 1.15),
    _ratio("gpu", "fast_jl / project dense signs", "project-rademacher", "fast_jl", "triton", ">=", 8),
    Goal("gpu", "project sjlt: share of copy bandwidth", "bandwidth", ("project-sjlt", "triton"), None, ">=", 0.8),
    _ratio("gpu", "token_scores / Liger, 1B", "token-scores-llama-1b", "triton", "liger", "<=", 1.1),
    _ratio("gpu", "token_scores / Liger, 8B", "token-scores-llama-8b", "triton", "liger", "<=", 1.1),
    _ratio("gpu", "flash-kmeans / k-means, 4096 of 2000x64, K=16", f"{_K}-4096-of-2000x64-16", _FL, "native", ">=", 10),
    _seconds("k-means, 4096 of 2000x64, K=16, 20 iterations", f"{_K}-4096-of-2000x64-16", 1.2e-3),
    _ratio("gpu", "flash-kmeans / k-means, 8 of 16384x128, K=100", f"{_K}-8-of-16384x128-100", _FL, "native", ">=", 10),
    _seconds("k-means, 8 of 16384x128, K=100, 10 iterations", f"{_K}-8-of-16384x128-100", 0.25e-3),
    _ratio(
        "gpu", "flash-kmeans / k-means, 8 of 131072x128, K=100", f"{_K}-8-of-131072x128-100", _FL, "native", ">=", 6
    ),
    _seconds("k-means, 8 of 131072x128, K=100, 10 iterations", f"{_K}-8-of-131072x128-100", 0.9e-3),
    _ratio(
        "gpu",
        "flash-kmeans / k-means, 32 of 131072x128, K=1000",
        f"{_K}-32-of-131072x128-1000",
        _FL,
        "native",
        ">=",
        2.8,
    ),
    _seconds("k-means, 32 of 131072x128, K=1000, 10 iterations", f"{_K}-32-of-131072x128-1000", 20e-3),
    _ratio("gpu", "faiss-gpu / k-means, 1000000x1536, K=1000", _WIDEST, "faiss-gpu, float32", "native", ">=", 50),
    _ratio("gpu", "cuML / k-means, 1000000x1536, K=1000", _WIDEST, "cuML, float32", "native", ">=", 15),
    _seconds("k-means, 1000000x1536, K=1000, 25 iterations", _WIDEST, 0.15),
    _ratio("gpu", "flash-kmeans / k-means, 10000000x128, K=20000", _MOST, _FL, "native, fast", ">=", 2.2),
    _ratio("gpu", "k-means exact / fast, 10000000x128, K=20000", _MOST, "native", "native, fast", "<=", 1 / 0.85),
    _ratio("gpu", "cuML / k-means exact, 10000000x128, K=20000", _MOST, "cuML, float32", "native", ">=", 10),
    _ratio("gpu", "SemDeDup in blocks / ours, 20000x512", _SD, "torch, blocks", "native", ">=", 4),
    _ratio("gpu", "SemDeDup in float32 / ours, 20000x512", _SD, "torch, blocks, float32", "native", ">=", 20),
    _seconds("SemDeDup's rule, 20000x512", _SD, 0.5e-3),
    _seconds("SemDeDup's rule, 318000x512", "semdedup-318000", 0.15),
    _ratio("gpu", "LESS / ours, from samples to features", "less-1b", "less", "extract", ">=", 10),
    _ratio("gpu", "LESS / ours, short samples packed", "less-1b-short", "less", "extract", ">=", 30),
)
"""The table of goals; "plain" is forward and backward of the same model and batch with the same trainable set."""


def judge(report: Report, goals: tuple[Goal, ...] = GOALS) -> list[GoalResult]:
    """Every goal of the report's suite: its figure and whether it is met; no figure where a side was not measured.

    At tiny scale figures mean nothing, so none is called met or missed.
    """
    return [_judge(report, goal) for goal in goals if goal.suite == report.suite]


def _judge(report: Report, goal: Goal) -> GoalResult:
    bound = f"{goal.relation} {goal.bound:g}" + ("" if goal.over is None else "x")
    what = goal.what if goal.quantity == "time" else f"{goal.what} ({goal.quantity})"
    sides = [goal.of] + ([goal.over] if goal.over else [])
    values = []
    for case, contender in sides:
        value, reason = _value(report, case, contender, goal.quantity)
        if value is None:
            return GoalResult(what, bound, None, None, reason)
        values.append(value)
    if goal.over and values[1] == 0:
        return GoalResult(what, bound, None, None, f"{goal.over[1]} of {goal.over[0]}: {goal.quantity} is 0")
    figure = values[0] / values[1] if goal.over else values[0]
    if report.scale == "tiny":
        return GoalResult(what, bound, figure, None, "tiny shapes: no verdict")
    return GoalResult(what, bound, figure, figure <= goal.bound if goal.relation == "<=" else figure >= goal.bound)


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
    return {"memory": found.memory, "bandwidth": found.bandwidth, "operations": found.flops}[quantity]
