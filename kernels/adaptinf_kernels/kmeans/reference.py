"""Lloyd's k-means in float64, with distances a bounded block of rows at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_BLOCK_BYTES = 64 << 20
"""Bytes of a block of rows in float64, and of its distances."""

_log = logging.getLogger("adaptinf_kernels")


class Fit(NamedTuple):
    """Labels int64 [N], centroids float64 [K, d], the sum of distances, and the iterations run."""

    labels: Tensor
    centroids: Tensor
    inertia: float
    n_iter: int


def not_supported_reasons(
    x: Tensor, k: int, init: str | Tensor, max_iter: int, tol: float, spherical: bool, seed: int
) -> list[str]:
    """None: it runs everywhere."""
    return []


def run(x: Tensor, k: int, init: str | Tensor, max_iter: int, tol: float, spherical: bool, seed: int) -> Fit:
    data = _Data(x, spherical)
    if isinstance(init, Tensor):
        centroids = data.normalise(init.to(x.device, torch.float64) - data.mean)
    else:
        rows = _random(data, k, seed) if init == "random" else _plus_plus(data, k, seed)
        centroids = data.take(rows)
    threshold, rounding = tol * data.variance(), data.rounding()
    labels, distances = data.assign(centroids)
    n_iter, settled = 0, False
    while n_iter < max_iter and not settled:
        n_iter += 1
        updated = _update(data, labels, distances, centroids, rounding)
        shift = float((updated - centroids).square().sum())
        centroids = updated
        previous, (labels, distances) = labels, data.assign(centroids)
        settled = shift <= threshold or torch.equal(previous, labels)
    used = int(labels.unique().numel())
    if used < k:
        _log.warning("kmeans: only %d of %d clusters are used; the data has too few distinct rows", used, k)
    return Fit(labels, centroids + data.mean, float(distances.sum()), n_iter)


class _Data:
    """The rows in float64 (unit rows less nothing, or rows less their mean), a block at a time."""

    def __init__(self, x: Tensor, spherical: bool) -> None:
        self.x, self.spherical = x, spherical
        self.block = max(1, _BLOCK_BYTES // (8 * max(1, x.shape[1])))
        self.mean = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        if not spherical:  # ||x||^2 - 2 x.c + ||c||^2 cancels where the mean is far from the origin
            total = self.mean.clone()
            for start in range(0, len(x), self.block):
                total += x[start : start + self.block].double().sum(0)
            self.mean = total / len(x)

    def normalise(self, rows: Tensor) -> Tensor:
        """Unit rows for the spherical metric, zero rows left alone; the rows themselves otherwise."""
        if not self.spherical:
            return rows
        largest = rows.abs().amax(1, keepdim=True)
        rows = rows / torch.where(largest == 0, 1, largest)
        norm = rows.norm(dim=1, keepdim=True)
        return rows / torch.where(norm == 0, 1, norm)

    def take(self, rows: Tensor | slice) -> Tensor:
        return self.normalise(self.x[rows].double() - self.mean)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.x), self.block):
            chunk = slice(start, start + self.block)
            yield chunk, self.take(chunk)

    def variance(self) -> float:
        """Mean over the columns of their variance."""
        total = sum(float(rows.square().sum()) for _, rows in self.blocks())
        return total / max(1, self.x.numel())

    def rounding(self) -> float:
        """The distance that a row may have to the mean of N copies of itself."""
        eps = torch.finfo(torch.float64).eps
        if self.spherical:
            return 4 * eps * self.x.shape[1]
        largest = max((float(rows.abs().max()) for _, rows in self.blocks() if rows.numel()), default=0.0)
        return self.x.shape[1] * (len(self.x) * eps * largest) ** 2

    def distances(self, rows: Tensor, centroids: Tensor) -> Tensor:
        """[n, K]: squared Euclidean, or 1 - cosine."""
        products = rows @ centroids.T
        if self.spherical:
            return 1 - products
        squared = rows.square().sum(1, keepdim=True) - 2 * products + centroids.square().sum(1)
        return squared.clamp_min_(0)

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest centroid, ties to the lowest id, and the distance to it."""
        labels = torch.empty(len(self.x), dtype=torch.int64, device=self.x.device)
        distances = torch.empty(len(self.x), dtype=torch.float64, device=self.x.device)
        for chunk, rows in self.blocks():
            for part in range(0, len(rows), step := max(1, _BLOCK_BYTES // (8 * len(centroids)))):
                found = self.distances(rows[part : part + step], centroids)
                nearest = found.min(1, keepdim=True).values
                lowest = (found == nearest).int().argmax(1)
                chosen = centroids[lowest]
                piece = slice(chunk.start + part, chunk.start + part + len(found))
                labels[piece] = lowest
                if self.spherical:
                    distances[piece] = nearest[:, 0]
                else:  # free of the cancellation
                    distances[piece] = (rows[part : part + step] - chosen).square().sum(1)
        return labels, distances


def _update(data: _Data, labels: Tensor, distances: Tensor, centroids: Tensor, rounding: float) -> Tensor:
    """Means of the clusters; an empty one is given the farthest point of a cluster that has others."""
    k = len(centroids)
    labels, sizes = _refill(labels, distances, k, rounding)
    sums = torch.zeros_like(centroids)
    for chunk, rows in data.blocks():
        sums.index_add_(0, labels[chunk], rows)
    means = data.normalise(sums / sizes.clamp_min(1)[:, None])
    keep = (sizes == 0) | (data.spherical & (means == 0).all(1))
    return torch.where(keep[:, None], centroids, means)


def _refill(labels: Tensor, distances: Tensor, k: int, rounding: float) -> tuple[Tensor, Tensor]:
    sizes = torch.bincount(labels, minlength=k)
    empty = (sizes == 0).nonzero()[:, 0].tolist()
    if not empty:
        return labels, sizes
    labels = labels.clone()
    farthest = iter(torch.argsort(distances, descending=True, stable=True).tolist())
    for cluster in empty:
        point = next((p for p in farthest if sizes[labels[p]] > 1 and distances[p] > rounding), None)
        if point is None:  # every point sits on its centroid: fewer distinct rows than clusters
            break
        sizes[labels[point]] -= 1
        labels[point], sizes[cluster] = cluster, 1
    return labels, sizes


def _random(data: _Data, k: int, seed: int) -> Tensor:
    rows = np.random.default_rng(seed).choice(len(data.x), size=k, replace=False)
    return torch.from_numpy(rows).to(data.x.device)


def _plus_plus(data: _Data, k: int, seed: int) -> Tensor:
    """Greedy k-means++: each next row is the best of ``2 + log k`` drawn with chance proportional to the distance."""
    generator = np.random.default_rng(seed)
    n, candidates = len(data.x), 2 + int(np.log(k))
    chosen = [int(generator.integers(n))]
    nearest = _distances_to(data, torch.tensor(chosen, device=data.x.device))[:, 0]
    while len(chosen) < k:
        cumulative = nearest.cumsum(0).cpu().numpy()
        if cumulative[-1] <= 0:  # all other rows are copies of chosen ones
            rest = np.setdiff1d(np.arange(n), chosen)
            chosen += rest[: k - len(chosen)].tolist()
            break
        drawn = np.searchsorted(cumulative, generator.random(candidates) * cumulative[-1], side="right")
        rows = torch.from_numpy(drawn.clip(max=n - 1)).to(data.x.device)
        reduced = torch.minimum(nearest[:, None], _distances_to(data, rows))
        best = int(reduced.sum(0).argmin())
        chosen.append(int(rows[best]))
        nearest = reduced[:, best]
    return torch.tensor(chosen, device=data.x.device)


def _distances_to(data: _Data, rows: Tensor) -> Tensor:
    """[N, len(rows)], exactly zero from a row to itself."""
    targets = data.take(rows)
    found = torch.cat([data.distances(block, targets) for _, block in data.blocks()]).clamp_min_(0)
    found[rows, torch.arange(len(rows), device=rows.device)] = 0
    return found
