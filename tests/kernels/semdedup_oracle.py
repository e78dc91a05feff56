"""De-duplication by brute force: all similarities in float64 in the defined order, and the rules row by row."""

from __future__ import annotations

import math

import numpy as np


def lane_sum(terms: list[float]) -> float:
    a = [0.0] * 8
    for t, term in enumerate(terms):
        a[t % 8] += term
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))


def unit_row(row: np.ndarray) -> np.ndarray:
    """float32, by Python's own floats."""
    values = [float(value) for value in row]
    largest = max(map(abs, values))
    if largest == 0:
        return np.zeros(len(values), np.float32)
    exponent = max(-1000, min(1022, math.frexp(largest)[1]))
    scaled = [float(np.float32(value * 2.0**-exponent)) for value in values]
    inverse = 1 / math.sqrt(lane_sum([value * value for value in scaled]))
    return np.array([np.float32(value * inverse) for value in scaled], np.float32)


def similarities(x: np.ndarray) -> np.ndarray:
    """float64 [N, N]: at most 1, and 1 between equal unit rows."""
    unit = np.stack([unit_row(row) for row in x]).astype(np.float64)
    lanes = np.zeros((8, len(x), len(x)))
    for t in range(x.shape[1]):
        lanes[t % 8] += unit[:, None, t] * unit[None, :, t]
    a = lanes
    found = np.minimum(((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])), 1)
    equal = (unit[:, None] == unit[None]).all(2) & (unit != 0).any(1)
    return np.where(equal, 1.0, found)


class Cluster:
    """Rows of one cluster in order of rank."""

    def __init__(self, x: np.ndarray) -> None:
        self.s = similarities(x)
        unit = [unit_row(row).tobytes() for row in x + 0.0]
        self.original = [unit.index(one) for one in unit]
        self.self_similarity = np.array([float(np.any(row != 0)) for row in x])

    def most_similar(self, j: int, among: list[int]) -> tuple[float, int]:
        before = [i for i in among if i < j]
        if not before:
            return math.nan, -1
        best = max(self.s[before, j])
        return best, next(i for i in before if self.s[i, j] == best)

    def reference(self) -> list[tuple[float, int]]:
        return [self.most_similar(j, list(range(j))) for j in range(len(self.s))]

    def greedy(self, threshold: float) -> tuple[list[bool], list[tuple[float, int]]]:
        """A copy of a row that is not kept has what that row has."""
        kept: list[int] = []
        found: list[tuple[float, int]] = []
        for j, original in enumerate(self.original):
            is_copy_of_removed = original < j and original not in kept
            found.append(found[original] if is_copy_of_removed else self.most_similar(j, kept))
            if not found[j][0] > threshold:
                kept.append(j)
        return [j in kept for j in range(len(self.s))], found

    def components(self, threshold: float) -> list[int]:
        """The first row of each row's component."""
        root = list(range(len(self.s)))
        for _ in root:
            for j in range(len(root)):
                near = np.flatnonzero(self.s[j] > threshold)
                for i in near[near != j]:
                    root[i] = root[j] = min(root[i], root[j])
        return root

    def farthest(self, budget: int, kept: list[int]) -> list[tuple[float, int]]:
        """Fills ``kept`` in order of choice; (similarity, row) of every row when it was chosen or at the end."""
        n = len(self.s)
        found = [(math.nan, -1)] * n
        for _ in range(budget):
            kept.append(min((j for j in range(n) if j not in kept), key=lambda j: (self.value(found[j]), j)))
            for j in range(n):
                if j not in kept and self.s[kept[-1], j] > self.value(found[j]):
                    found[j] = float(self.s[kept[-1], j]), kept[-1]
        return found

    @staticmethod
    def value(found: tuple[float, int]) -> float:
        return -math.inf if math.isnan(found[0]) else found[0]
