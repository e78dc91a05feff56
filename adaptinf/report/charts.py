"""The drawings of the report as inline SVG: learning curves, cluster maps, and how the number of clusters was chosen.

Colours of paper and ink come from the page's CSS variables, so that one drawing serves light and dark. Every mark has a
``<title>``, which is its tooltip and its description for a screen reader.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from adaptinf.report.colours import cycled
from adaptinf.report.run_view import Step
from adaptinf.report.units import count, percent
from adaptinf.selection.cluster import elbow

MAP_POINTS = 3000
"""A cluster map draws at most so many points."""

_MARKERS = (
    (),
    ((-3, -3), (3, -3), (3, 3), (-3, 3)),
    ((0, -4), (4, 0), (0, 4), (-4, 0)),
    ((0, -4), (4, 3), (-4, 3)),
)
"""Corners around a point: disc, square, diamond, triangle."""

_DASHES = ("none", "7 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Line:
    """One curve: a value (share, NaN for a gap) at each stage from 0 on."""

    name: str
    values: Sequence[float]
    style: int = 0


def line_chart(
    lines: Sequence[Line], stages: Sequence[str], *, width: int, height: int, learnt: int | None = None
) -> Markup:
    """Curves over the stages, 0 to 100 % upwards. ``learnt`` is the stage at which the task was trained on."""
    left, right, top, bottom = 30, width - 10, 8, height - 20
    step = (right - left) / max(len(stages) - 1, 1)

    def at(stage: int, value: float) -> tuple[float, float]:
        return left + stage * step, bottom - (bottom - top) * min(max(value, 0.0), 1.0)

    parts = [_open(width, height, "Score in % after each step: " + ", ".join(line.name for line in lines))]
    for value in (0.0, 0.5, 1.0):
        _, y = at(0, value)
        parts.append(_mark(f'<line class="gridline" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'))
        parts.append(_text(left - 5, y + 3.5, f"{100 * value:.0f}", "tick end"))
    if learnt is not None and learnt < len(stages):
        x, _ = at(learnt, 0)
        band = f'<rect class="learnt" x="{x - 4:.1f}" y="{top}" width="8" height="{bottom - top}"/>'
        parts.append(_mark(f"<g><title>step {learnt}: the model is trained on this task</title>{band}</g>"))
    every = -(-len(stages) // max(int((right - left) / 22), 1))
    for stage in range(0, len(stages), every):
        parts.append(_text(at(stage, 0)[0], height - 5, str(stage), "tick middle"))
    for line in lines:
        parts.append(_curve(line, stages, at))
    return Markup("").join([*parts, Markup("</svg>")])


def swatch(style: int) -> Markup:
    """The line and marker of a curve, for a legend."""
    dashes = f'stroke-dasharray="{_dash(style)}"'
    line = _mark(f'<line x1="1" x2="31" y1="7" y2="7" style="stroke:{cycled(style)}" {dashes}/>')
    return Markup('<svg class="swatch" width="32" height="14" aria-hidden="true">{}{}</svg>').format(
        line, _marker(16, 7, style, "")
    )


def cluster_map(step: Step, *, size: int = 420) -> tuple[Markup, int] | None:
    """The samples of a step in the plane: colour by cluster, filled where selected, hollow where not.

    Returns the drawing and the number of points drawn (a seeded sample of at most ``MAP_POINTS``), or None where the
    step has no map.
    """
    if step.points is None or step.decisions is None:
        return None
    row_of = {id: row for row, id in enumerate(step.decisions.ids)}
    drawable = [
        i for i, id in enumerate(step.points.ids) if id in row_of and np.isfinite(step.points.x[i] + step.points.y[i])
    ]
    if not drawable:
        return None
    if len(drawable) > MAP_POINTS:
        drawable = sorted(random.Random(step.number).sample(drawable, MAP_POINTS))
    rows = np.array([row_of[step.points.ids[i]] for i in drawable])
    x, y = _fit(step.points.x[drawable], size), size - _fit(step.points.y[drawable], size)
    cluster, selected = step.decisions.cluster[rows], step.decisions.selected[rows]
    parts = [_open(size, size, f"Map of {len(drawable)} samples by cluster")]
    labels = []
    width = 6.8 if len(drawable) <= 800 else 5.2
    for number in np.unique(cluster):
        here = cluster == number
        name = f"cluster {number}" if number >= 0 else "no cluster"
        parts.append(
            Markup('<g class="points" style="color:{}"><title>{}: {} samples, {} selected</title>').format(
                cycled(number) if number >= 0 else "var(--muted)",
                name,
                count((step.decisions.cluster == number).sum()),
                count(((step.decisions.cluster == number) & step.decisions.selected).sum()),
            )
        )
        hollow, filled = here & ~selected, here & selected
        parts += [
            _dots("dot", width, x[hollow], y[hollow]),
            _dots("hole", width - 2, x[hollow], y[hollow]),
            _dots("dot", width + 1, x[filled], y[filled]),
            Markup("</g>"),
        ]
        if number >= 0:
            labels.append(_text(float(np.median(x[here])), float(np.median(y[here])) + 5, str(number), "label middle"))
    return Markup("").join([*parts, *labels, Markup("</svg>")]), len(drawable)


def elbow_chart(curve: Sequence[tuple[int, float]], *, width: int = 420, height: int = 190) -> Markup:
    """Inertia over the cluster counts tried, the chord of its ends, and the count whose point is farthest below it."""
    left, right, top, bottom = 14, width - 14, 14, height - 20
    counts, inertia = (np.array(column, dtype=np.float64) for column in zip(*curve, strict=True))
    x = left + (right - left) * _share(counts, counts[0], counts[-1])
    y = bottom - (bottom - top) * _share(inertia, inertia.min(), inertia.max())
    chosen = [k for k, _ in curve].index(elbow(curve))
    last = float(y.max())  # the rule does not let inertia rise again
    parts = [
        _open(width, height, f"Inertia of {curve[0][0]} to {curve[-1][0]} clusters; {curve[chosen][0]} were chosen"),
        _mark(f'<line class="gridline" x1="{x[0]:.1f}" y1="{y[0]:.1f}" x2="{x[-1]:.1f}" y2="{last:.1f}"/>'),
    ]
    chord = y[0] + _share(x[chosen], x[0], x[-1]) * (last - y[0])
    parts.append(
        _mark(
            f'<line class="gridline" stroke-dasharray="3 3" x1="{x[chosen]:.1f}" x2="{x[chosen]:.1f}" '
            f'y1="{chord:.1f}" y2="{y[chosen]:.1f}"/>'
        )
    )
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
    parts.append(_mark(f'<path class="curve" style="stroke:{cycled(0)}" d="M{path}"/>'))
    for place, (k, value) in enumerate(curve):
        note = f"{count(k)} clusters: inertia {value:.6g}" + (", the elbow" if place == chosen else "")
        parts.append(_marker(x[place], y[place], 2 if place == chosen else 0, note))
        parts.append(_text(x[place], height - 5, str(k), "tick middle"))
    return Markup("").join([*parts, Markup("</svg>")])


def _share(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _curve(line: Line, stages: Sequence[str], at: Callable[[int, float], tuple[float, float]]) -> Markup:
    colour, dash = cycled(line.style), _dash(line.style)
    parts, pen_down, path = [], False, []
    for stage, value in enumerate(line.values):
        if np.isnan(value):
            pen_down = False
            continue
        x, y = at(stage, value)
        path.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = True
        when = "base model" if stage == 0 else f"after step {stage} ({stages[stage]})"
        parts.append(_marker(x, y, line.style, f"{line.name}, {when}: {percent(value)}"))
    stroke = _mark(f'<path class="curve" style="stroke:{colour}" stroke-dasharray="{dash}" d="{" ".join(path)}"/>')
    return Markup("").join([stroke, *parts])


def _marker(x: float, y: float, style: int, note: str) -> Markup:
    title = Markup("<title>{}</title>").format(note) if note else Markup("")
    corners = _MARKERS[style % len(_MARKERS)]
    if corners:
        outline = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
        body = f'<polygon points="{outline}" style="fill:{cycled(style)}"/>'
    else:
        body = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:{cycled(style)}"/>'
    return Markup('<g class="marker">{}{}</g>').format(title, _mark(body))


def _dash(style: int) -> str:
    return _DASHES[style % len(_DASHES)]


def _fit(values: np.ndarray, size: int) -> np.ndarray:
    """Coordinates on a square of ``size`` with a margin; a single value goes to the middle."""
    low, span = values.min(), np.ptp(values)
    return 16 + (size - 32) * ((values - low) / span if span > 0 else np.full(len(values), 0.5))


def _dots(kind: str, width: float, x: np.ndarray, y: np.ndarray) -> Markup:
    """A path of zero-length strokes: with round caps each is a dot."""
    strokes = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True))
    return _mark(f'<path class="{kind}" stroke-width="{width:.1f}" d="{strokes}"/>')


def _text(x: float, y: float, text: str, classes: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(f"{x:.1f}", f"{y:.1f}", classes, text)


def _open(width: int, height: int, label: str) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)


def _mark(text: str) -> Markup:
    """Markup made of numbers and of names of this module only; nothing from a run."""
    return Markup(text)  # noqa: S704
