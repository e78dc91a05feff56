"""Which sketches the Triton kernels make; imports without triton."""

from __future__ import annotations

from adaptinf_kernels.sketch.definition import Sketch

MOST = 8192
"""Numbers that a program keeps in registers while it goes through a weight."""


XORTS = 16, 4096
"""Least and most k of xorts: the side of the smallest matrix product, and a token's numbers in registers."""


def linear_limits(sketch: Sketch) -> list[str]:
    """Why kernels cannot sketch a Linear layer's gradient so; empty where they can."""
    if sketch.kind == "sjlt":
        return sjlt_limits(sketch)
    if sketch.kind == "xorts":
        low, high = XORTS
        return (
            [] if low <= sketch.k <= high else [f"its transforms of xorts have k from {low} to {high}, not {sketch.k}"]
        )
    if sketch.kind == "kron":
        return ["kron is two products with thin matrices, which torch has: the reference is as fast"]
    return [f"it has no kernel for kind {sketch.kind!r}"]


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
