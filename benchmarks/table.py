"""Results as text: for the terminal and for the Markdown file beside the JSON."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import CaseResult, Change, GoalResult, Measurement, Report


def markdown(report: Report) -> str:
    """Machine, goals, and one table a case."""
    machine = report.machine
    where = machine["gpu"]["name"] if "gpu" in machine else f"{machine['cpu']}, {machine['threads']} threads"
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    peers = ", ".join(f"{name} {version}" for name, version in report.peers.items())
    peaks = f"copy {report.peaks['copy'] / 1e9:.0f} GB/s" + "".join(
        f", {name} product {value / 1e12:.2f} TFLOP/s" for name, value in report.peaks.items() if name != "copy"
    )
    parts = [
        f"# {where}",
        f"Commit {report.commit}, {report.created}, suite {report.suite}, {report.scale} shapes: `{report.command}`",
        f"{versions}. Peers: {peers}. Measured peaks: {peaks}. Load before: {machine['load']}.",
        "## Goals",
        _rows(("goal", "bound", "figure", "verdict"), [_goal(one) for one in report.goals]),
        *(_case(case) for case in report.cases),
    ]
    return "\n\n".join(parts) + "\n"


def changes(found: Sequence[Change]) -> str:
    rows = [
        (
            one.case,
            one.contender,
            f"{one.ratio:.2f}x",
            "**slower**" if one.regression else "faster" if one.improvement else "",
        )
        for one in sorted(found, key=lambda one: -one.ratio)
    ]
    return _rows(("case", "contender", "new / old", ""), rows)


def _goal(goal: GoalResult) -> tuple[str, ...]:
    verdict = {True: "met", False: "**not met**", None: goal.reason}[goal.met]
    return goal.goal, goal.bound, "-" if goal.figure is None else f"{goal.figure:.3g}", verdict


def _case(case: CaseResult) -> str:
    shape = ", ".join(f"{name} {value}" for name, value in case.shape.items())
    title = f"## {case.case}\n\n{shape or 'no inputs'} ({case.seconds:.0f} s)"
    if case.reason:
        return f"{title}\n\n{case.reason}"
    baseline = case.find(case.baseline)
    head = (
        "contender",
        "ms",
        "quartiles",
        f"/ {case.baseline}",
        "samples/s",
        "roofline",
        "memory",
        "error / tolerance",
        "note",
    )
    return f"{title}\n\n{_rows(head, [_measurement(one, baseline, case.samples) for one in case.measurements])}"


def _measurement(one: Measurement, baseline: Measurement | None, samples: int | None) -> tuple[str, ...]:
    name = f"**{one.contender}**" if one.ours else one.contender
    if one.times is None:
        return name, "-", "", "", "", "", "", _errors(one), f"{one.status}: {one.reason}"
    milliseconds = {key: one.times[key] * 1e3 for key in ("median", "q25", "q75")}
    ratio = ""
    if baseline is not None and baseline.times is not None:
        ratio = f"{one.times['median'] / baseline.times['median']:.2f}x"
    return (
        name,
        f"{milliseconds['median']:.4g}",
        f"{milliseconds['q25']:.4g} to {milliseconds['q75']:.4g}",
        ratio,
        "" if samples is None else f"{samples / one.times['median']:.4g}",
        "" if one.roofline is None else f"{100 * one.roofline:.0f} %",
        "" if one.memory is None else f"{one.memory / 2**20:.1f} MiB",
        _errors(one),
        one.note,
    )


def _errors(one: Measurement) -> str:
    return "" if one.error is None else f"{one.error:.1e} / {one.tolerance:.1e}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "none"
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
