"""Lloyd's iteration as README.md of the op defines it, in Python's own floats and integers, one row at a time."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Fit(NamedTuple):
    labels: list[int]
    centroids: np.ndarray
    sizes: list[int]
    inertia: float
    n_iter: int


def lane8(terms: list[float]) -> float:
    a = [0.0] * 8
    for t, term in enumerate(terms):
        a[t % 8] += term
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))


def dot(a: list[float], b: list[float]) -> float:
    return lane8([p * q for p, q in zip(a, b, strict=True)])


def distance(a: list[float], b: list[float], spherical: bool) -> float:
    return 1.0 - dot(a, b) if spherical else lane8([(p - q) * (p - q) for p, q in zip(a, b, strict=True)])


def unit(row: list[float]) -> list[float]:
    row = [math.ldexp(v, -math.frexp(max(map(abs, row)))[1]) for v in row]
    length = math.sqrt(dot(row, row))
    return [v / length for v in row] if length else row


def scale(n: int, largest: float) -> float:
    return math.ldexp(1.0, max(-1000, min(1000, 62 - n.bit_length() - math.frexp(largest)[1])))


def total(values: list[float], power: float) -> int:
    return sum(round(Fraction(v) * Fraction(power)) for v in values)  # Fraction rounds ties to even


def kmeans(
    x: np.ndarray,
    start: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    tol: float = 0.0,
    by_inertia: bool = False,
    max_iter: int = 100,
    empty: str = "farthest",
    spherical: bool = False,
) -> Fit:
    state = np.float64 if x.dtype == np.float64 else np.float32
    n, d, k = *x.shape, len(start)
    w = [1.0] * n if weights is None else [float(v) for v in weights]
    rows = [[float(v) for v in row] for row in x]
    if spherical:
        origin, y, reach = [0.0] * d, [unit(row) for row in rows], 1.0
        start = np.array([unit([float(v) for v in c]) for c in start])
    else:
        s = scale(n, max(abs(v) for row in rows for v in row))
        origin = [float(total([row[t] for row in rows], s)) / s / n for t in range(d)]
        y = [[v - o for v, o in zip(row, origin, strict=True)] for row in rows]
        reach = max(abs(v) for row in y for v in row)
    centroids = start.astype(state)

    def relative(matrix: np.ndarray) -> list[list[float]]:
        return [[float(v) - o for v, o in zip(row, origin, strict=True)] for row in matrix]

    away = min(max(map(abs, row)) for row in relative(centroids))
    span = reach + max(reach, away)
    sum_scale, weight_scale = scale(n, max(w) * reach), scale(n, max(w))
    inertia_scale = scale(n, max(w) * (2.0 if spherical else d * (span * span)))
    copies = n * 2.0**-52 * reach
    rounding = 4 * 2.0**-52 * d if spherical else d * (copies * copies)

    def assign(matrix: np.ndarray) -> tuple[list[int], list[float], int]:
        c = relative(matrix)
        half = [0.0 if spherical else 0.5 * dot(row, row) for row in c]
        labels = []
        for row in y:
            scores = [h - dot(row, cj) for h, cj in zip(half, c, strict=True)]
            labels.append(scores.index(min(scores)))
        away = [distance(row, c[label], spherical) for row, label in zip(y, labels, strict=True)]
        return labels, away, total([wi * a for wi, a in zip(w, away, strict=True)], inertia_scale)

    def refill(labels: list[int], away: list[float]) -> list[int]:
        labels = list(labels)
        before, sizes, moved = list(labels), [labels.count(j) for j in range(k)], set()
        for j in range(k):
            if labels.count(j) or before.count(j) or empty == "keep":
                continue
            free = [i for i in range(n) if i not in moved and w[i] > 0 and away[i] > rounding and sizes[before[i]] > 1]
            if not free:
                break
            best = min(
                free, key=lambda i: (-sizes[labels[i]], labels[i], -away[i], i) if empty == "split" else (-away[i], i)
            )
            sizes[before[best]] -= 1
            labels[best] = j
            moved.add(best)
        return labels

    labels, away, inertia = assign(centroids)
    n_iter, settled = 0, False
    variance = (
        total([dot(row, row) for row in y], s3 := scale(n, 2.0 if spherical else d * (2 * reach) ** 2)) / s3 / (n * d)
    )
    while n_iter < max_iter and not settled:
        n_iter += 1
        members = refill(labels, away)
        new = centroids.copy()
        for j in range(k):
            mine = [i for i in range(n) if members[i] == j]
            heavy = total([w[i] for i in mine], weight_scale)
            sums = [total([w[i] * y[i][t] for i in mine], sum_scale) for t in range(d)]
            if heavy == 0 or (spherical and not any(sums)):
                continue
            mean = [(float(v) / sum_scale) / (float(heavy) / weight_scale) for v in sums]
            new[j] = unit(mean) if spherical else [v + o for v, o in zip(mean, origin, strict=True)]
        moved = 0.0
        for j in range(k):
            moved += lane8(
                [(float(p) - float(q)) * (float(p) - float(q)) for p, q in zip(new[j], centroids[j], strict=True)]
            )
        previous, before, centroids = labels, inertia, new
        labels, away, inertia = assign(centroids)
        settled = labels == previous
        settled |= float(before - inertia) <= tol * float(before) if by_inertia else moved <= tol * variance
    return Fit(labels, centroids, [labels.count(j) for j in range(k)], inertia / inertia_scale, n_iter)
