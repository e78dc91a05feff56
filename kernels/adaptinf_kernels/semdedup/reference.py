"""De-duplication of one cluster after the other, a block of similarities at a time."""

from __future__ import annotations

import heapq
import itertools

import torch
from adaptinf_kernels.kmeans.arithmetic import lane8, power_of_two, square_root
from torch import Tensor

_BLOCK = 512
"""Rows compared at once; a block of similarities has its square."""

_PAIRS = 1 << 16
"""Pairs whose similarity is summed in the defined order at once."""


def not_supported_reasons(
    x: Tensor, rows: Tensor, bounds: Tensor, ranks: Tensor, keep: str, thresholds: list[float], budgets: Tensor | None
) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(
    x: Tensor, rows: Tensor, bounds: Tensor, ranks: Tensor, keep: str, thresholds: list[float], budgets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(kept bool [E, N], before int64 [E, N], similarity float64 [E, N]) by place; see ``ops.py``."""
    results = max(1, len(thresholds))
    kept = torch.zeros(results, len(rows), dtype=torch.bool, device=x.device)
    before = torch.full((results, len(rows)), -1, dtype=torch.int64, device=x.device)
    similarity = torch.full((results, len(rows)), float("nan"), dtype=torch.float64, device=x.device)
    edges = bounds.tolist()
    clusters = [_Cluster(x[rows[a:b]], a) for a, b in itertools.pairwise(edges) if b > a]
    if budgets is not None:
        orders = [_Farthest(cluster, kept[0], before[0], similarity[0]) for cluster in clusters]
        _keep(orders, ranks, budgets[bounds.diff() > 0] if budgets.dim() else budgets)
        return kept, before, similarity
    for cluster in clusters:
        places = slice(cluster.first, cluster.first + len(cluster.kind))
        everything = cluster.most_similar(thresholds) if keep != "greedy" else None
        for result, threshold in enumerate(thresholds):
            if everything is not None:
                nearest, value, roots = everything
                counts = torch.ones_like(nearest, dtype=torch.bool)
            else:
                nearest, value, counts = cluster.most_similar_kept(threshold)
                roots = []
            before[result, places], similarity[result, places] = cluster.spread(nearest, value, counts)
            if keep == "components":
                root = cluster.components(roots[result], threshold)
                own = torch.arange(cluster.first, places.stop, device=x.device)
                kept[result, places] = root == own
                before[result, places] = torch.where(root == own, -1, root)
            else:
                kept[result, places] = ~(similarity[result, places] > threshold)
    return kept, before, similarity


def unit_rows(x: Tensor) -> Tensor:
    """Rows of unit length in float32, for finite rows of any magnitude; zero rows stay zero."""
    wide = x.double()
    largest = wide.abs().amax(1)
    exponent = torch.frexp(largest).exponent.long().clamp(-1000, 1022).masked_fill(largest == 0, 0)
    rows = (wide * power_of_two(-exponent)[:, None]).float().double()
    length = square_root(lane8(rows * rows))
    inverse = torch.where(length == 0, 0, 1 / torch.where(length == 0, 1, length))
    return (rows * inverse[:, None]).float() + 0.0  # -0 becomes 0


class _Cluster:
    """Rows in order of rank, in places from ``first`` on; equal unit rows are one distinct row."""

    def __init__(self, x: Tensor, first: int) -> None:
        unit = unit_rows(x)
        kind = torch.unique(unit, dim=0, return_inverse=True)[1]
        place = torch.arange(len(unit), device=x.device)
        original = torch.full_like(kind, len(unit)).scatter_reduce(0, kind, place, "amin")[: int(kind.max()) + 1]
        self.place, order = original.sort()  # of distinct rows
        self.kind = order.argsort()[kind]  # of places
        self.first = first
        self.unit = unit[self.place].double()
        self.itself = (self.unit != 0).any(1).double()
        self.slack = (x.shape[1] + 8) * 2.0**-51

    def __len__(self) -> int:
        return len(self.place)

    def similarities(self, a: Tensor, b: Tensor) -> Tensor:
        """Of the pairs (a, b) of different distinct rows."""
        parts = zip(a.split(_PAIRS), b.split(_PAIRS), strict=True)
        sums = [lane8(self.unit[i] * self.unit[j]).clamp_max(1) for i, j in parts]
        return torch.cat(sums) if sums else self.unit.new_empty(0)

    def most_similar(self, thresholds: list[float]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The most similar row before each, whatever became of it, and each threshold's first row of its component."""
        nearest, value = self.nothing()
        roots = [torch.arange(len(self), device=self.place.device) for _ in thresholds]
        for mine in self._blocks():
            for theirs in self._blocks(int(mine[-1]) + 1):
                screen, allowed = self._screen(mine, theirs)
                self._raise(nearest, value, screen, allowed, mine, theirs)
                for result, threshold in enumerate(thresholds):
                    _join(roots[result], *self._pairs_above(threshold, screen, allowed, mine, theirs))
        return nearest, value, roots

    def most_similar_kept(self, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """In order, a row is kept unless a kept one is more similar than the threshold."""
        nearest, value = self.nothing()
        kept = torch.zeros_like(nearest, dtype=torch.bool)
        for mine in self._blocks():
            for theirs in kept[: int(mine[0])].nonzero()[:, 0].split(_BLOCK) if int(mine[0]) else ():
                self._raise(nearest, value, *self._screen(mine, theirs), mine, theirs)
            for row in mine.tolist():
                if float(value[row]) > threshold:
                    continue
                kept[row] = True
                later = mine[mine > row]
                found = self.similarities(torch.full_like(later, row), later)
                more = later[found > value[later]]
                value[more] = found[more - row - 1]
                nearest[more] = row
        return nearest, value, kept

    def spread(self, nearest: Tensor, value: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """(before, similarity) of every place from those of distinct rows; ``counts``: which are rows before."""
        before = torch.where(nearest < 0, -1, self.first + self.place[nearest.clamp_min(0)])[self.kind]
        similarity = torch.where(nearest < 0, float("nan"), value)[self.kind]
        original, itself = self.place[self.kind], self.itself[self.kind]
        own = torch.arange(len(original), device=original.device)
        inherits = (own != original) & ~(similarity >= itself) & counts[self.kind]
        return torch.where(inherits, self.first + original, before), torch.where(inherits, itself, similarity)

    def components(self, root: Tensor, threshold: float) -> Tensor:
        """The place of the first row of each place's component, from that of distinct rows."""
        own = torch.arange(len(self.kind), device=self.kind.device)
        alone = (own != self.place[self.kind]) & ~(self.itself[self.kind] > threshold)
        return self.first + torch.where(alone, own, self.place[root[self.kind]])

    def nothing(self) -> tuple[Tensor, Tensor]:
        nearest = torch.full((len(self),), -1, dtype=torch.int64, device=self.place.device)
        return nearest, torch.full((len(self),), float("-inf"), dtype=torch.float64, device=self.place.device)

    def _blocks(self, stop: int | None = None) -> tuple[Tensor, ...]:
        return torch.arange(len(self) if stop is None else stop, device=self.place.device).split(_BLOCK)

    def _screen(self, mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """(similarities but for the order of their additions, which of them count)."""
        return _products(self.unit[mine], self.unit[theirs]), theirs < mine[:, None]

    def _raise(
        self, nearest: Tensor, value: Tensor, screen: Tensor, allowed: Tensor, mine: Tensor, theirs: Tensor
    ) -> None:
        """Take the most similar of ``theirs`` where it exceeds ``value``; ties to the first, earlier calls first."""
        screen = screen.masked_fill(~allowed, float("-inf"))
        most = torch.maximum(screen.amax(1), value[mine]).clamp_max(1)
        i, j = (allowed & (screen >= (most - 2 * self.slack)[:, None])).nonzero(as_tuple=True)
        found = self.similarities(mine[i], theirs[j])
        best = torch.full_like(most, float("-inf")).scatter_reduce(0, i, found, "amax")
        is_best = found == best[i]
        first = torch.full_like(mine, len(theirs)).scatter_reduce(0, i[is_best], j[is_best], "amin")
        more = best > value[mine]
        value[mine[more]] = best[more]
        nearest[mine[more]] = theirs[first[more]]

    def _pairs_above(
        self, threshold: float, screen: Tensor, allowed: Tensor, mine: Tensor, theirs: Tensor
    ) -> tuple[Tensor, Tensor]:
        i, j = (allowed & (screen.clamp_max(1) > threshold - self.slack)).nonzero(as_tuple=True)
        near = screen[i, j] <= threshold + self.slack
        above = ~near if threshold < 1 else torch.zeros_like(near)
        above[near] = self.similarities(mine[i[near]], theirs[j[near]]) > threshold
        return mine[i[above]], theirs[j[above]]


def _products(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.T


def _join(root: Tensor, i: Tensor, j: Tensor) -> None:
    """Merge the trees of the pairs; a root is the first row of its tree."""
    while True:
        low, high = torch.minimum(root[i], root[j]), torch.maximum(root[i], root[j])
        apart = low < high
        if not apart.any():
            return
        root.scatter_reduce_(0, high[apart], low[apart], "amin")
        while not torch.equal(root, root[root]):
            root.copy_(root[root])


class _Farthest:
    """Farthest first in one cluster: keep the open row least similar to all kept ones, ties to the first."""

    def __init__(self, cluster: _Cluster, kept: Tensor, before: Tensor, similarity: Tensor) -> None:
        places = slice(cluster.first, cluster.first + len(cluster.kind))
        self._cluster, self.first = cluster, cluster.first
        self._kept, self._before, self._similarity = kept[places], before[places], similarity[places]
        self._nearest, self._value = cluster.nothing()
        self._is_kept = torch.zeros_like(self._nearest, dtype=torch.bool)

    def is_open(self) -> bool:
        return not bool(self._kept.all())

    def next(self) -> tuple[float, int]:
        """(similarity, place in the cluster) of the row that comes next."""
        value = self._value[self._cluster.kind].masked_fill(self._kept, float("inf"))
        place = int((value == value.min()).int().argmax())
        return float(value[place]), place

    def keep(self) -> None:
        value, place = self.next()
        kind = int(self._cluster.kind[place])
        self._write(torch.tensor([place], device=self._kept.device))
        self._kept[place] = True
        if self._is_kept[kind]:
            return
        self._is_kept[kind] = True
        itself = float(self._cluster.itself[kind])
        if not value >= itself:
            self._value[kind], self._nearest[kind] = itself, place
        others = (~self._is_kept).nonzero()[:, 0]
        found = self._cluster.similarities(torch.full_like(others, kind), others)
        more = found > self._value[others]
        self._value[others[more]] = found[more]
        self._nearest[others[more]] = place

    def finish(self) -> None:
        self._write((~self._kept).nonzero()[:, 0])

    def _write(self, places: Tensor) -> None:
        kind = self._cluster.kind[places]
        nearest = self._nearest[kind]
        self._before[places] = torch.where(nearest < 0, -1, self._cluster.first + nearest)
        self._similarity[places] = torch.where(nearest < 0, float("nan"), self._value[kind])


def _keep(orders: list[_Farthest], ranks: Tensor, budgets: Tensor) -> None:
    """So many rows of each cluster, or (a number without a dimension) of all of them together, ties by rank."""
    if budgets.dim():
        for order, count in zip(orders, budgets.tolist(), strict=True):
            for _ in range(count):
                order.keep()
    else:

        def entry(number: int) -> tuple[float, int, int]:
            value, place = orders[number].next()
            return value, int(ranks[orders[number].first + place]), number

        heap = [entry(number) for number in range(len(orders))]
        heapq.heapify(heap)
        for _ in range(int(budgets)):
            number = heapq.heappop(heap)[2]
            orders[number].keep()
            if orders[number].is_open():
                heapq.heappush(heap, entry(number))
    for order in orders:
        order.finish()
