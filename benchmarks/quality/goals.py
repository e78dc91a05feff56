"""What the comparison was made to find out: each goal with what was found, computed from the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.quality.grid import HALVED, ROUTED
from benchmarks.quality.statistics import Estimate, estimate

Row = dict[str, Any]
Runs = dict[tuple[int, int], Row]
"""The runs of one strategy, by order and seed."""

PRESETS = ("adaptinf", "paper")
ADAPTINF = "adaptinf"


@dataclass(frozen=True)
class Goal:
    """``met`` None: the rows to tell are missing."""

    about: str
    wanted: str
    found: str
    met: bool | None


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Every goal. Differences and comparisons are over the seeds and orders that both sides have, an interval is 95 %
    (Student's t) and needs two of them."""
    found: dict[tuple[str, float, str], Runs] = {}
    for row in rows:
        found.setdefault((row["stream"], row["budget"], row["strategy"]), {})[row["order"], row["seed"]] = row
    return [
        *(one for preset in PRESETS for one in _quarter(found, preset)),
        *(one for stream in ("text", "multimodal") for one in _eighth(found, stream)),
        *(one for strategy in HALVED for one in _halved(found, strategy)),
        *(_routed(found, strategy, budget) for strategy, budget in ROUTED),
        *_costs(found),
    ]


def _quarter(found: dict[tuple[str, float, str], Runs], preset: str) -> Iterator[Goal]:
    where = f"`{preset}`, multimodal, 25 %: "
    runs, others = (found.get(("multimodal", 0.25, name), {}) for name in (preset, "random_replay"))
    gains = [row["relative_gain"] for row in runs.values() if row["relative_gain"] is not None]
    yield _goal(where + "relative gain", "100 % or more", gains, "{:.0f} %", lambda e: e.mean >= 100)
    ahead = _differences(runs, others, "average_accuracy", 100)
    yield _goal(
        where + "average accuracy minus random replay's", "above 0, and the interval too", ahead, "{:+.1f} points",
        lambda e: e.n > 1 and e.mean - e.half > 0,
    )  # fmt: skip
    shared = runs.keys() & others.keys()
    mine, theirs = (estimate([100 * one[key]["forgetting"] for key in shared]).mean if shared else 0.0
                    for one in (runs, others))  # fmt: skip
    text = f"{mine:.1f} points, random replay {theirs:.1f}, {_runs(len(shared))}" if shared else "not run"
    met = mine <= max(theirs, 0) / 2 if shared else None  # below 0 the tasks have gained since they were learned
    yield Goal(where + "forgetting", "at most half of random replay's, or none", text, met)


def _eighth(found: dict[tuple[str, float, str], Runs], stream: str) -> Iterator[Goal]:
    mine = found.get((stream, 0.125, ADAPTINF), {})
    others = {
        name: runs
        for (its_stream, budget, name), runs in found.items()
        if (its_stream, budget) == (stream, 0.125) and runs.keys() & mine.keys() and not name.startswith(ADAPTINF)
    }
    for measure, called in (("average_accuracy", "average accuracy"), ("worst_task", "worst task")):
        about, wanted = f"`{ADAPTINF}`, {stream}, 12.5 %: {called}", "above every other selector's"
        if not others:
            yield Goal(about, wanted, "not run", None)
            continue
        ahead = {name: estimate(_differences(mine, runs, measure, 100)) for name, runs in others.items()}
        nearest = min(ahead, key=lambda name: ahead[name].mean)
        beaten = sum(one.mean > 0 for one in ahead.values())
        text = f"above {beaten} of {len(ahead)}; least minus `{nearest}`: {_show('{:+.1f} points', ahead[nearest])}"
        yield Goal(about, wanted, text, beaten == len(ahead))


def _halved(found: dict[tuple[str, float, str], Runs], strategy: str) -> Iterator[Goal]:
    pruned, whole = (found.get(("redundant", 0.25, name), {}) for name in (strategy, strategy.split(maxsplit=1)[0]))
    where = f"`{strategy}`, redundant, 25 %: "
    lost = _differences(pruned, whole, "average_accuracy", 100)
    yield _goal(
        where + "average accuracy minus the same unpruned", "above -0.5 points", lost, "{:+.1f} points",
        lambda e: e.mean > -0.5,
    )  # fmt: skip
    near = [100 * row["near_duplicates"] for row in pruned.values() if row["near_duplicates"] is not None]
    yield _goal(
        where + "near-duplicates of something kept among what it drops", "90 % or more", near, "{:.0f} %",
        lambda e: e.mean >= 90,
    )  # fmt: skip


def _routed(found: dict[tuple[str, float, str], Runs], strategy: str, budget: float) -> Goal:
    """Against the single adapter, joint training's too, that is nearest at any budget."""
    about, wanted = f"`{strategy}`, multimodal: average accuracy", "above every single adapter's, and the interval too"
    mine = found.get(("multimodal", budget, strategy), {})
    ahead = {
        f"{name} at {100 * share:g} %": estimate(_differences(mine, runs, "average_accuracy", 100))
        for (stream, share, name), runs in found.items()
        if stream == "multimodal" and not name.startswith("switch") and len(runs.keys() & mine.keys()) > 1
    }
    if not ahead:
        return Goal(about, wanted, "not run", None)
    nearest = min(ahead, key=lambda name: ahead[name].mean - ahead[name].half)
    least = ahead[nearest]
    met = all(one.mean - one.half > 0 for one in ahead.values())
    return Goal(about, wanted, f"least minus `{nearest}`: {_show('{:+.1f} points', least)}, of {len(ahead)}", met)


def _costs(found: dict[tuple[str, float, str], Runs]) -> Iterator[Goal]:
    for preset in PRESETS:
        shares = [
            100 * saved_share(row["selection_seconds"], row["training_seconds"], budget)
            for (_, budget, name), runs in found.items()
            if name == preset and budget < 1
            for row in runs.values()
        ]
        text = f"{max(shares):.1f} % at most, {_runs(len(shares))}" if shares else "not run"
        met = max(shares) <= 15 if shares else None
        yield Goal(f"`{preset}`: selecting, of the training time that it saves", "15 % or less", text, met)


def saved_share(selecting: float, training: float, budget: float) -> float:
    """Selecting over the training it saves: without it all of the pool is trained on, ``1 / budget`` times as much."""
    return selecting / (training * (1 / budget - 1))


def _differences(runs: Runs, others: Runs, measure: str, scale: float) -> list[float]:
    return [scale * (runs[key][measure] - others[key][measure]) for key in sorted(runs.keys() & others.keys())]


def _goal(about: str, wanted: str, values: list[float], form: str, met: Callable[[Estimate], bool]) -> Goal:
    if not values:
        return Goal(about, wanted, "not run", None)
    found = estimate(values)
    return Goal(about, wanted, _show(form, found), met(found))


def _show(form: str, found: Estimate) -> str:
    half = f" ± {found.half:.1f}" if found.n > 1 else ""
    return f"{form.format(found.mean)}{half}, {_runs(found.n)}"


def _runs(n: int) -> str:
    return f"{n} run{'s' if n > 1 else ''}"
