"""DETAIL against leaving each demonstration out of its ridge regression, and as a finder of wrong labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr

from adaptinf.influence import DemonstrationInfluence, demonstration_influence
from adaptinf.influence.demonstrations import NOISE
from benchmarks.influence.vectors import Labelled

SIZES, QUERIES = (40, 160), 20
ALPHAS = (1.0, 0.1)


def measure(problem: str, source: Labelled, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each number of demonstrations, form of the gradients and alpha: Spearman's correlation over the
    demonstrations, of ``test`` with what a query's loss rises by without one (mean over queries), and of ``itself``
    with what its own loss rises by.

    And at DETAIL's alpha for wrong labels, a tenth of them wrong: the area under the ROC curve of ``itself``.
    """
    generator = np.random.default_rng(seed)
    for n in SIZES:
        drawn = source.rows(generator.permutation(len(source.x))[: n + QUERIES])
        shown, asked = drawn.rows(np.arange(n)), drawn.rows(np.arange(n, n + QUERIES))
        truths = {alpha: _left_out(shown, asked, alpha) for alpha in ALPHAS}
        wrong = n // 10
        y = shown.y.copy()
        y[:wrong] = np.roll(y[:wrong], 1, axis=1)
        for penalty in (True, False):
            row = {"study": "demonstrations", "problem": problem, "n": n, "penalty": penalty, "seed": seed}
            for alpha, (helps, own) in truths.items():
                found = _influence(shown, asked, alpha, penalty)
                agreement = [spearmanr(found.test[j], helps[:, j]).statistic for j in range(QUERIES)]
                itself = spearmanr(found.itself, own).statistic
                yield {**row, "alpha": alpha, "test": float(np.mean(agreement)), "itself": float(itself)}
            ranks = rankdata(_influence(Labelled(shown.x, y), asked, NOISE, penalty).itself)
            area = (ranks[:wrong].sum() - wrong * (wrong + 1) / 2) / (wrong * (n - wrong))
            yield {**row, "alpha": NOISE, "wrong_labels": float(area)}


def _influence(shown: Labelled, asked: Labelled, alpha: float, penalty: bool) -> DemonstrationInfluence:
    tensors = (torch.from_numpy(part) for part in (shown.x, shown.y, asked.x, asked.y))
    return demonstration_influence(*tensors, alpha=alpha, penalty=penalty)


def _left_out(shown: Labelled, asked: Labelled, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """What the losses of the queries, [n, q], and of the demonstration itself, [n], rise by without each."""
    everyone = np.arange(len(shown.x))
    others = [shown.rows(np.delete(everyone, i)) for i in everyone]
    helps = np.stack([_losses(rest, asked, alpha) for rest in others]) - _losses(shown, asked, alpha)
    own = np.array([_losses(rest, shown.rows(everyone[i : i + 1]), alpha)[0] for i, rest in enumerate(others)])
    return helps, own - _losses(shown, shown, alpha)


def _losses(shown: Labelled, asked: Labelled, alpha: float) -> np.ndarray:
    """[q] of the queries under the regression of the demonstrations."""
    dual = np.linalg.solve(shown.x @ shown.x.T + alpha * np.eye(len(shown.x)), shown.y)
    return ((asked.x @ shown.x.T @ dual - asked.y) ** 2).sum(1) / 2
