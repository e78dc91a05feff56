"""Which sketches the Triton kernels make; imports without triton."""

from __future__ import annotations

from adaptinf_kernels.sketch.definition import Sketch

MOST = 8192
"""Numbers that a program keeps in registers while it goes through a weight."""

TRANSFORMS = 16, 8192
"""Least and most k of xorts by transforms: the side of the smallest matrix product, and two programs a token."""

SOURCES = 32768
"""Most k of xorts by moving entries: what the tables of ``xorts_sources`` count up to."""

_KRON = "kron is two products with thin matrices, which torch has: the reference is as fast"


def linear_limits(sketch: Sketch) -> list[str]:
    """Why kernels cannot sketch a Linear layer's gradient so; empty where they can."""
    if sketch.kind == "sjlt":
        return sjlt_limits(sketch)
    if sketch.kind == "kron":
        return [_KRON]
    low, high = TRANSFORMS
    if sketch.kind == "xorts" and not low <= sketch.k <= high:
        return [f"its transforms of xorts have k from {low} to {high}, not {sketch.k}"]
    return []


def row_limits(sketch: Sketch) -> list[str]:
    """Why kernels cannot sketch rows of gradients in memory so; empty where they can."""
    if sketch.kind == "sjlt":
        return slice_limits(sketch)
    if sketch.kind == "kron":
        return [_KRON]
    if sketch.kind == "xorts" and sketch.k > SOURCES:
        return [f"its tables of xorts have k up to {SOURCES}, not {sketch.k}"]
    return []


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
