"""The start of k-means: greedy k-means++, as many candidates for all."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from adaptinf_kernels import kmeans
from torch import Tensor

from benchmarks.case import Case, Contender, Outputs, Setting, Workload
from benchmarks.cases.common import normal
from benchmarks.cases.kmeans import Inertia
from benchmarks.gate import Equal
from benchmarks.peers import module


def _build(setting: Setting, *, problems: int, n: int, d: int, k: int) -> Workload:
    if setting.tiny:
        n, k, d = n // 20, max(2, k // 20), min(d, 32)
    x = normal(setting, problems, n, d, dtype=torch.float32)

    def start(impl: str) -> Tensor:
        return kmeans(x, k, max_iter=0, impl=impl).centroids

    expected = functools.cache(lambda: start("reference"))
    alike = Inertia(x, expected, 0.5 if setting.tiny else 0.1)  # other draws
    contenders = (
        Contender("native", lambda: lambda: start("native"), Equal(lambda: _named(expected())), _named, ours=True),
        Contender("reference", lambda: lambda: start("reference"), alike, _named),
        Contender("scikit-learn", lambda: _scikit_learn(x, k), alike, _named),
    )
    return Workload({"problems": problems, "N": n, "d": d, "K": k}, contenders, problems * n)


def _scikit_learn(x: Tensor, k: int) -> Callable[[], Tensor]:
    draw = module("sklearn.cluster", "scikit-learn").kmeans_plusplus

    def start() -> Tensor:
        return torch.stack([torch.from_numpy(draw(rows, k, random_state=0)[0]) for rows in x.numpy()])

    return start


def _named(centroids: Tensor) -> Outputs:
    return {"centroids": centroids}


def _case(name: str, rank: int, **shape: int) -> Case:
    build = functools.partial(_build, **shape)
    return Case(f"kmeans-start-{name}", build, "scikit-learn", rank, ("cpu",), ("native", "scikit-learn"))


CASES = (
    _case("100000x128-256", 58, problems=1, n=100_000, d=128, k=256),
    _case("64-of-2000x64-16", 59, problems=64, n=2000, d=64, k=16),
)
