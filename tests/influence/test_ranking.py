"""Targeted influence: LESS's formula by hand, and all methods against leaving one sample out of a logistic fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from adaptinf_kernels import Sketch, project
from scipy.stats import spearmanr

from adaptinf.capture import Features
from adaptinf.errors import ConfigError, DataError, IdentityError, NonFiniteError
from adaptinf.influence.ranking import targeted_influence


def features(rows: np.ndarray, *, name: str = "p", parts: int = 1, **more: object) -> Features:
    identity = {
        "model": "m",
        "targets": [f"w{i}" for i in range(parts)],
        "per_parameter": parts > 1,
        "preconditioners": None,
    }
    ids = [f"{name}{i:03}" for i in range(len(rows))]
    made = Features(ids=ids, sketch=np.asarray(rows, np.float32), hidden=None, scores={}, identity=identity)
    return dataclasses.replace(made, **more)


def scores(ranking) -> np.ndarray:
    """In the order of ids, which is the pool's here."""
    return ranking.score[np.argsort(ranking.ids)]


def test_less_by_hand() -> None:
    pool = features(np.array([[2.0, 0], [0, 5], [-1, 0], [0, 0], [3, 4]]))
    query = features(np.array([[1.0, 0], [4, 0], [0, 1], [7, 7]]), name="q")
    found = targeted_influence(pool, query, ["a", "a", "b", "b"])
    half = 0.5**0.5
    mean_b = np.array([half, 1 + half]) / 2
    wanted = [1.0, mean_b[1], -mean_b[0], 0.0, 0.6 * mean_b[0] + 0.8 * mean_b[1]]
    np.testing.assert_allclose(scores(found), wanted, rtol=1e-6)
    assert found.ids == ["p000", "p004", "p001", "p003", "p002"]
    assert found.task == ["a", "b", "b", "a", "b"]
    assert found.table().to_pylist()[1] == {"rank": 1, "id": "p004", "score": found.score[1], "task": "b"}
    # what the optimiser would do with the pool's gradients counts, where it is known
    turned = dataclasses.replace(pool, direction=pool.sketch[:, ::-1].copy())
    assert targeted_influence(turned, query, ["a", "a", "b", "b"]).ids[0] == "p001"


def test_equal_scores_are_in_the_order_of_ids() -> None:
    pool = features(np.ones((4, 2)), ids=["c", "a", "d", "b"])
    assert targeted_influence(pool, features(np.ones((1, 2)), name="q"), ["t"]).ids == ["a", "b", "c", "d"]


def test_datainf_goes_by_parameter_where_the_sketches_do() -> None:
    rng = np.random.default_rng(0)
    rows, query = rng.normal(size=(8, 6)), rng.normal(size=(2, 6))
    rows[:, 3:] *= 20
    pool, wanted_by = features(rows, parts=2), features(query, name="q", parts=2)
    apart = targeted_influence(pool, wanted_by, ["t"] * 2, method="datainf", relative_damping=0.1)
    wanted = np.zeros(8)
    for columns in (slice(0, 3), slice(3, 6)):
        g, target = rows[:, columns], query[:, columns].mean(0)
        damping = 0.1 * (g**2).mean()
        inverse = np.mean([np.linalg.inv(np.outer(row, row) + damping * np.eye(3)) for row in g], axis=0)
        wanted += g @ inverse @ target
    np.testing.assert_allclose(scores(apart), wanted, rtol=1e-4)


class Fit:
    """L2-regularised logistic regression, solved to the end by Newton's method."""

    def __init__(self, seed: int, n: int = 150, d: int = 6, queries: int = 30) -> None:
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=d)
        self.x = rng.normal(size=(n + queries, d))
        self.y = np.where(rng.random(n + queries) < 1 / (1 + np.exp(-(self.x @ truth))), 1.0, -1.0)
        self.n = n

    def weights(self, rows: np.ndarray) -> np.ndarray:
        x, y = self.x[rows], self.y[rows]
        w = np.zeros(x.shape[1])
        for _ in range(15):
            p = 1 / (1 + np.exp(y * (x @ w)))
            slope = -(y * p) @ x / len(x) + 0.01 * w
            w = w - np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) / len(x) + 0.01 * np.eye(len(w)), slope)
        assert np.abs(slope).max() < 1e-12
        return w

    def gradients(self, w: np.ndarray) -> np.ndarray:
        margin = self.y * (self.x @ w)
        return -(self.y / (1 + np.exp(margin)))[:, None] * self.x

    def query_loss(self, w: np.ndarray) -> float:
        return float(np.logaddexp(0, -self.y[self.n :] * (self.x[self.n :] @ w)).mean())


@pytest.mark.parametrize("seed", range(3))
def test_ranks_agree_with_leaving_one_out(seed: int) -> None:
    fit = Fit(seed)
    everyone = np.arange(fit.n)
    w = fit.weights(everyone)
    helps = [fit.query_loss(fit.weights(np.delete(everyone, i))) - fit.query_loss(w) for i in everyone]
    gradients = torch.from_numpy(fit.gradients(w)).float()
    sketch = project(gradients, Sketch("rademacher", 64, seed=seed), name="w").numpy()
    pool, query = features(sketch[: fit.n]), features(sketch[fit.n :], name="q")
    agreement = {
        method: spearmanr(scores(targeted_influence(pool, query, ["t"] * len(query), method=method)), helps).statistic
        for method in ("less", "sketched", "datainf")
    }
    assert agreement["sketched"] > 0.8, agreement
    assert agreement["datainf"] > 0.8, agreement
    assert agreement["less"] > 0.3, agreement  # cosines leave out how large a gradient is


def test_bad_input() -> None:
    pool, query = features(np.eye(3)), features(np.eye(3)[:1], name="q")
    with pytest.raises(ConfigError, match="no method"):
        targeted_influence(pool, query, ["t"], method="trak")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="2 names for 1"):
        targeted_influence(pool, query, ["t", "t"])
    with pytest.raises(DataError, match="pool: has no gradient sketches"):
        targeted_influence(dataclasses.replace(pool, sketch=None), query, ["t"])
    with pytest.raises(DataError, match="query"):
        targeted_influence(pool, features(np.zeros((0, 3)), name="q"), [])
    other = dataclasses.replace(query, identity={**query.identity, "model": "other"})
    with pytest.raises(IdentityError, match="differ in model"):
        targeted_influence(pool, other, ["t"])
    bad = np.eye(3)
    bad[1, 1] = np.nan
    with pytest.raises(NonFiniteError, match="p001"):
        targeted_influence(features(bad), query, ["t"])
    with pytest.raises(NonFiniteError, match="p001"):
        targeted_influence(dataclasses.replace(pool, direction=bad.astype(np.float32)), query, ["t"])
    moments = dataclasses.replace(pool, identity={**pool.identity, "preconditioners": "digest"})
    assert targeted_influence(moments, query, ["t"]).ids == targeted_influence(pool, query, ["t"]).ids
