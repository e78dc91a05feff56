"""Which sketches the Triton kernels make; imports without triton."""

from __future__ import annotations

from adaptinf_kernels.sketch.definition import Sketch

MOST = 8192
"""Numbers that a program keeps in registers while it goes through a weight."""


def sjlt_limits(sketch: Sketch) -> list[str]:
    """Why kernels cannot lay tiles of this sjlt; empty where they can."""
    (p, q), reasons = sketch.tile, []
    if p & (p - 1) or q & (q - 1) or sketch.nonzeros & (sketch.nonzeros - 1):
        reasons.append(f"its tiles and slices are powers of two, those of k={sketch.k} are {p} x {q}")
    elif p < 8:
        reasons.append(f"its tiles have at least 8 rows, k={sketch.k} with {sketch.nonzeros} nonzeros gives {p} x {q}")
    if sketch.k > MOST:
        reasons.append(f"it keeps the sketch in registers: k up to {MOST}, not {sketch.k}")
    return reasons


def slice_limits(sketch: Sketch) -> list[str]:
    """Why programs that hold one slice of this sjlt each cannot; empty where they can."""
    rows = sketch.k // sketch.nonzeros
    if rows & (rows - 1) or not 512 <= rows <= MOST:
        return [f"k / nonzeros must be a power of two from 512 to {MOST}, not {rows}"]
    return []
