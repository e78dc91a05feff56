"""Targeted influence against leaving each sample out of a softmax regression and training it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from adaptinf_kernels import Sketch, project
from scipy.stats import spearmanr

from adaptinf.capture import Features
from adaptinf.influence import Ranking, targeted_influence
from adaptinf.influence.ranking import METHODS
from benchmarks.influence.vectors import Labelled

SAMPLES, QUERIES, COMPONENTS = 150, 50, 32
K, STEP = 1024, 0.1


class Regression:
    """``mean cross-entropy + decay/2 |w|^2`` with a constant among the inputs: convex. ``w`` is flat, [(d + 1) c]."""

    def __init__(self, samples: Labelled, decay: float) -> None:
        self.x = np.column_stack([samples.x, np.ones(len(samples.x))])
        self.y, self.decay = samples.y, decay

    def losses(self, w: np.ndarray) -> np.ndarray:
        return -(self.y * self._log_p(w)).sum(1)

    def gradients(self, w: np.ndarray) -> np.ndarray:
        """[n, (d + 1) c], of each sample's loss alone."""
        errors = np.exp(self._log_p(w)) - self.y
        return (self.x[:, :, None] * errors[:, None, :]).reshape(len(self.x), -1)

    def hessian(self, w: np.ndarray) -> np.ndarray:
        """Of the objective."""
        p = np.exp(self._log_p(w))
        n, (d, c) = len(p), (self.x.shape[1], p.shape[1])
        curvature = p[:, :, None] * np.eye(c) - p[:, :, None] * p[:, None, :]
        outer = self.x[:, :, None] * self.x[:, None, :]
        blocks = (outer.reshape(n, -1).T @ curvature.reshape(n, -1) / n).reshape(d, d, c, c)
        return blocks.transpose(0, 2, 1, 3).reshape(d * c, d * c) + self.decay * np.eye(d * c)

    def fit(self, start: np.ndarray | None = None) -> np.ndarray:
        """Newton's method with step halving until no entry of the gradient is above 1e-10."""
        w = np.zeros(self.x.shape[1] * self.y.shape[1]) if start is None else start
        while np.abs(slope := self.gradients(w).mean(0) + self.decay * w).max() > 1e-10:
            step = np.linalg.solve(self.hessian(w), slope)
            while self._objective(w - step) > self._objective(w) + 1e-14:
                step = step / 2
            w = w - step
        return w

    def _objective(self, w: np.ndarray) -> float:
        return float(self.losses(w).mean() + self.decay / 2 * (w**2).sum())

    def _log_p(self, w: np.ndarray) -> np.ndarray:
        z = self.x @ w.reshape(self.x.shape[1], -1)
        z = z - z.max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))


def measure(problem: str, source: Labelled, seed: int, *, decay: float = 0.01) -> Iterator[dict[str, Any]]:
    """A row for each method: Spearman's correlation over the samples with what the query's mean loss rises by without
    the sample (``leave_one_out``), and with what it falls by after one step of length ``STEP`` down the sample's
    gradient (``one_step``)."""
    generator = np.random.default_rng(seed)
    drawn = source.rows(generator.permutation(len(source.x))[: SAMPLES + QUERIES]).components(COMPONENTS)
    everyone = np.arange(SAMPLES)
    samples, query = drawn.rows(everyone), Regression(drawn.rows(np.arange(SAMPLES, SAMPLES + QUERIES)), 0.0)
    regression = Regression(samples, decay)
    w = regression.fit()
    gradients, wanted = regression.gradients(w), query.gradients(w)
    lengths = np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), np.finfo(float).tiny)
    loss = query.losses(w).mean()
    without = [Regression(samples.rows(np.delete(everyone, i)), decay).fit(w) for i in everyone]
    truths = {
        "leave_one_out": [query.losses(other).mean() - loss for other in without],
        "one_step": [loss - query.losses(w - STEP * step).mean() for step in gradients / lengths],
    }
    sketch = Sketch("sjlt", K, seed=seed)
    pool, target = (
        _features(project(torch.from_numpy(rows).float(), sketch, name="w").numpy(), name)
        for rows, name in ((gradients, "p"), (wanted, "q"))
    )
    scores = {"exact": gradients @ np.linalg.solve(regression.hessian(w), wanted.mean(0))}
    scores["inner product"] = pool.sketch @ target.sketch.mean(0)
    for method in METHODS:
        scores[method] = _scores(targeted_influence(pool, target, ["t"] * QUERIES, method=method))
    less_damped = targeted_influence(pool, target, ["t"] * QUERIES, method="sketched", relative_damping=0.1)
    scores["sketched, damping 0.1"] = _scores(less_damped)
    for method, found in scores.items():
        agreement = {name: float(spearmanr(found, truth).statistic) for name, truth in truths.items()}
        yield {"study": "ranking", "problem": problem, "seed": seed, "method": method, **agreement}


def _scores(ranking: Ranking) -> np.ndarray:
    """In the order of ids, which is that of the samples."""
    return ranking.score[np.argsort(ranking.ids)]


def _features(sketches: np.ndarray, name: str) -> Features:
    identity = {"model": "softmax regression", "targets": ["w"], "per_parameter": False, "preconditioners": None}
    ids = [f"{name}{number:04}" for number in range(len(sketches))]
    return Features(ids=ids, sketch=sketches, hidden=None, scores={}, identity=identity)
