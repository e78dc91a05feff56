"""The tables of docs/routing.md from the study's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.document import table
from benchmarks.quality.statistics import Estimate, estimate
from benchmarks.routing.tasks import WORDINGS

Row = dict[str, Any]


def markdown(rows: Sequence[Row]) -> str:
    """The goals, then a table a study; a study without rows has no table."""
    by_study: dict[str, list[Row]] = {}
    for row in rows:
        by_study.setdefault(row["study"], []).append(row)
    parts = [table(("goal", "wanted", "found", "met"), _goals(by_study))]
    parts += [of(by_study[name]) for name, of in _TABLES.items() if name in by_study]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _goals(studies: dict[str, list[Row]]) -> list[list[str]]:
    found = []
    if "runs" in studies:
        rows = studies["runs"]
        accuracy, share = (estimate([row[key] for row in rows]) for key in ("accuracy", "share"))
        changed, compared = (sum(row[key] for row in rows) for key in ("changed", "compared"))
        found += [
            _goal("requests routed right, ten exemplars a task", "99 % or more", accuracy, accuracy.mean >= 99, "%"),
            _goal("final average, of the oracle's", "99 % or more", share, share.mean >= 99, "%"),
            [
                "answers that change through the same adapter",
                "none",
                f"{changed} of {compared}",
                "yes" if not changed else "no",
            ],
        ]
    for row in studies.get("dispatch", []):
        ratio = row["a pass for every adapter / ours"]
        name = f"eight adapters in a batch of 32, {row['model']}: times as fast as a pass for each"
        found.append([name, "3 or more", f"{ratio:.2f}", "yes" if ratio >= 3 else "no"])
    if "cost" in studies:
        share = estimate([row["time_share"] for row in studies["cost"]])
        found.append(_goal("routing, of generating 32 tokens", "3 % or less", share, share.mean <= 3, "%"))
    return found


def _goal(name: str, wanted: str, found: Estimate, met: bool, unit: str) -> list[str]:
    return [name, wanted, f"{_plus(found)} {unit}, {found.n} runs", "yes" if met else "no"]


def _routers(rows: list[Row]) -> list[str]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        kind = tuple(str(row.get(key, "")) for key in ("router", "encoder", "pooling", "exemplars"))
        groups.setdefault(kind, []).append(row)
    columns = ("router", "sees", "exemplars", *(f"accuracy, {name}" for name in WORDINGS))
    columns += ("calibration error", "AUROC of foreign requests", "MFLOP a request", "ms a request")
    lines = []
    for (router, encoder, pooling, exemplars), of in groups.items():
        kept = (exemplars or "10") if router == "switch" else "all, once"
        lines.append(
            [router, f"{encoder} {pooling}".strip(), kept]
            + [_plus(estimate([row["accuracy"][name] for row in of])) for name in WORDINGS]
            + [_plus(estimate([row[key] for row in of]), digits) for key, digits in (("ece", 3), ("auroc", 3))]
            + [f"{estimate([row['flops'] / 1e6 for row in of]).mean:.0f}"]
            + [f"{estimate([row['ms'] for row in of]).mean:.1f}"]
        )
    return table(columns, lines)


def _runs(rows: list[Row]) -> list[str]:
    keys = ("accuracy", "share", "compared", "changed")
    columns = ("seed", "routed right, %", "of the oracle's average, %", "answers compared", "changed")
    return table(columns, [[str(row["seed"]), *(f"{row[key]:.4g}" for key in keys)] for row in rows])


def _dispatch(rows: list[Row]) -> list[str]:
    ways = [key for key in rows[0] if key.endswith(" / ours")]
    lines = [[row["model"], str(row["threads"]), *(f"{row[way]:.2f}" for way in ways)] for row in rows]
    return table(("model", "threads", *ways), lines)


def _cost(rows: list[Row]) -> list[str]:
    keys = ("route_ms", "answer_ms", "time_share", "flops_share")
    columns = ("seed", "routing, ms", "32 tokens, ms", "share of the time, %", "share of the operations, %")
    return table(columns, [[str(row["seed"]), *(f"{row[key]:.4g}" for key in keys)] for row in rows])


_TABLES: dict[str, Callable[[list[Row]], list[str]]] = {
    "routers": _routers,
    "runs": _runs,
    "dispatch": _dispatch,
    "cost": _cost,
}


def _plus(found: Estimate, digits: int = 1) -> str:
    return f"{found.mean:.{digits}f} ± {found.half:.{digits}f}" if found.n > 1 else f"{found.mean:.{digits}f}"
