"""k-means from the same start for the same number of iterations, and from a former result after some rows changed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from adaptinf_kernels import KMeansResult, kmeans, semdedup
from adaptinf_kernels.kmeans.memory import Memory
from torch import Tensor

from benchmarks.case import Case, Contender, Gate, Outputs, Setting, Verdict, Workload
from benchmarks.cases.common import cost, normal
from benchmarks.gate import Close
from benchmarks.neighbours import Neighbours
from benchmarks.peers import module

BLOCK = 16384
"""Rows whose distances are held at a time."""

_EPS = 0.05
"""Of near-duplicates."""

_INTEL = ("sklearnex", "scikit-learn-intelex")


class Inertia:
    """The float64 inertia of the centroids is within ``tolerance`` of that of ``expected`` centroids, relatively.

    It may be lower: another path may end in a better place.
    """

    def __init__(self, x: Tensor, expected: Callable[[], Tensor], tolerance: float) -> None:
        self._x, self._tolerance = x, tolerance
        self._expected = expected

    def check(self, outputs: Outputs) -> Verdict:
        expected = _inertia(self._x, self._expected())
        error = max((float(f) - e) / e for f, e in zip(_inertia(self._x, outputs["centroids"]), expected, strict=True))
        passed = math.isfinite(error) and error <= self._tolerance
        return Verdict(passed, error, self._tolerance, "inertia")


class Settled:
    """A float64 iteration from the centroids lowers the inertia by less than 1e-6 of it."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def check(self, outputs: Outputs) -> Verdict:
        centroids = outputs["centroids"].double()
        return Inertia(self._x, lambda: lloyd(self._x.double(), centroids, 1, torch.float64), 1e-6).check(outputs)


def _inertia(x: Tensor, centroids: Tensor) -> list[float]:
    """Of each problem, in float64."""
    return [
        sum(
            float(torch.cdist(part, c, compute_mode="use_mm_for_euclid_dist").amin(1).square().sum())
            for part in rows.double().split(BLOCK)
        )
        for rows, c in zip(x, centroids.double(), strict=True)
    ]


def lloyd(x: Tensor, start: Tensor, iterations: int, dtype: torch.dtype) -> Tensor:
    """Plain torch: products in ``dtype``, everything else in the dtype of ``x``; problems one after the other."""
    return torch.stack([_lloyd_one(rows, c, iterations, dtype) for rows, c in zip(x, start, strict=True)])


def _lloyd_one(x: Tensor, c: Tensor, iterations: int, dtype: torch.dtype) -> Tensor:
    k, narrow = len(c), x.to(dtype)
    for _ in range(iterations):
        half, columns = c.square().sum(1) / 2, c.to(dtype).T
        labels = torch.cat([(half - part @ columns).argmin(1) for part in narrow.split(BLOCK)])
        counts = torch.bincount(labels, minlength=k)
        sums = torch.zeros_like(c).index_add_(0, labels, x)
        c = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], c)
    return c


def batched(x: Tensor, start: Tensor, iterations: int) -> Tensor:
    """All problems in one batched product."""
    c, (b, k, d) = start, start.shape
    for _ in range(iterations):
        labels = torch.baddbmm(c.square().sum(2)[:, None] / 2, x, c.mT, alpha=-1).argmin(2)
        flat = (labels + k * torch.arange(b, device=x.device)[:, None]).flatten()
        counts = torch.bincount(flat, minlength=b * k)[:, None]
        sums = torch.zeros(b * k, d, dtype=x.dtype, device=x.device).index_add_(0, flat, x.flatten(0, 1))
        c = torch.where(counts > 0, sums / counts.clamp_min(1), c.flatten(0, 1)).view(b, k, d)
    return c


def _scikit_learn(
    x: Tensor, start: Tensor, iterations: int, package: str = "sklearn", distribution: str = "scikit-learn"
) -> Callable[[], Tensor]:
    """scikit-learn's, or what has its interface."""
    cluster = module(f"{package}.cluster", distribution)

    def fit() -> Tensor:
        found = [
            cluster.KMeans(len(c), init=c, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(rows)
            for rows, c in zip(x.numpy(), start.numpy(), strict=True)
        ]
        return torch.stack([torch.from_numpy(one.cluster_centers_) for one in found])

    return fit


def _faiss(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor]:
    faiss = module("faiss", "faiss-cpu")

    def fit() -> Tensor:
        found = []
        for rows, c in zip(x.numpy(), start.numpy(), strict=True):
            one = faiss.Kmeans(rows.shape[1], len(c), niter=iterations, max_points_per_centroid=len(rows), nredo=1)
            one.train(rows, init_centroids=c)  # it may stop early, where its objective no longer falls
            found.append(torch.from_numpy(one.centroids.copy()))
        return torch.stack(found)

    return fit


def _fastkmeans(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor]:
    """It draws its start itself."""
    package = module("fastkmeans", "fastkmeans")

    def fit() -> Tensor:
        found = []
        for rows in x.numpy():
            options = {"max_points_per_centroid": len(rows), "gpu": False, "use_triton": False}
            one = package.FastKMeans(rows.shape[1], start.shape[1], niter=iterations, tol=0, **options)
            one.train(rows)
            found.append(torch.from_numpy(one.centroids))
        return torch.stack(found)

    return fit


def _superkmeans(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor]:
    """It draws its start itself, and looks at some of the columns first."""
    package = module("superkmeans", "superkmeans")

    def fit() -> Tensor:
        found = []
        for rows in x.numpy():
            one = package.SuperKMeans(
                start.shape[1],
                rows.shape[1],
                hierarchical=False,
                iters=iterations,
                sampling_fraction=1.0,
                max_points_per_cluster=len(rows),
                n_threads=torch.get_num_threads(),
                early_termination=False,
            )
            found.append(torch.from_numpy(one.train(rows)))
        return torch.stack(found)

    return fit


def _build(setting: Setting, *, problems: int, n: int, d: int, k: int, iterations: int, blobs: bool) -> Workload:
    if setting.tiny:
        n, k, d, iterations = n // 100, max(2, k // 100), min(d, 32), 3
    if blobs:
        x, start = _blobs(setting, n, d, k)
    else:
        x = normal(setting, problems, n, d, dtype=torch.float32)
        start = x[:, :k].clone()
    expected = functools.cache(lambda: lloyd(x.double(), start.double(), iterations, torch.float64))

    def ours(impl: str, precision: Any) -> Tensor:
        found = kmeans(x, k, init=start, max_iter=iterations, stop="labels", precision=precision, impl=impl)
        return found.centroids

    flops = cost(2.0 * problems * n * k * d * iterations, [x], 4.0 * problems * k * d, torch.bfloat16)
    # of few rows each label weighs more: one rounding to bfloat16
    exact, rough = Inertia(x, expected, 1e-6), Inertia(x, expected, 2**-8 if setting.tiny else 1e-4)
    other = Inertia(x, expected, 0.1 if setting.tiny else 0.03)  # from another start
    contenders = [
        Contender("native", lambda: lambda: ours("native", "exact"), exact, _named, ours=True, cost=flops),
        Contender("native, fast", lambda: lambda: ours("native", "fast"), rough, _named, ours=True, cost=flops),
        Contender("scikit-learn", lambda: _scikit_learn(x, start, iterations), rough, _named),
        Contender("sklearnex", lambda: _scikit_learn(x, start, iterations, *_INTEL), rough, _named),
        Contender("faiss", lambda: _faiss(x, start, iterations), rough, _named),
        Contender("fastkmeans, its own start", lambda: _fastkmeans(x, start, iterations), other, _named),
        Contender("superkmeans, its own start", lambda: _superkmeans(x, start, iterations), other, _named),
        Contender("torch", lambda: lambda: lloyd(x, start, iterations, x.dtype), rough, _named),
        Contender("torch, bfloat16", lambda: lambda: lloyd(x, start, iterations, torch.bfloat16), rough, _named),
    ]
    if problems > 1:
        contenders.append(Contender("torch, batched", lambda: lambda: batched(x, start, iterations), rough, _named))
    shape = {"problems": problems, "N": n, "d": d, "K": k, "iterations": iterations}
    return Workload(shape, tuple(contenders), problems * n)


def _build_busy(setting: Setting, *, n: int, d: int, k: int, iterations: int) -> Workload:
    """Each contender alone and beside two processes that do nothing but compute."""
    if setting.tiny:
        n, k, d, iterations = n // 100, max(2, k // 100), min(d, 32), 3
    x, start = _blobs(setting, n, d, k)
    expected = functools.cache(lambda: lloyd(x.double(), start.double(), iterations, torch.float64))
    exact, rough = Inertia(x, expected, 1e-6), Inertia(x, expected, 1e-4)
    neighbours = functools.cache(lambda: Neighbours(2))

    def ours() -> Tensor:
        return kmeans(x, k, init=start, max_iter=iterations, stop="labels", impl="native").centroids

    def beside(prepare: Callable[[], Callable[[], Tensor]]) -> Callable[[], Tensor]:
        run = prepare()
        return lambda: neighbours().beside(run)

    contenders = []
    for name, prepare, gate in (
        ("native", lambda: ours, exact),
        ("scikit-learn", lambda: _scikit_learn(x, start, iterations), rough),
        ("torch", lambda: lambda: lloyd(x, start, iterations, x.dtype), rough),
    ):
        mine = name == "native"
        contenders.append(Contender(name, prepare, gate, _named, ours=mine))
        busy = functools.partial(beside, prepare)
        contenders.append(Contender(f"{name}, busy", busy, gate, _named, ours=mine))
    return Workload({"N": n, "d": d, "K": k, "iterations": iterations, "busy": 2}, tuple(contenders), n)


def _blobs(setting: Setting, n: int, d: int, k: int) -> tuple[Tensor, Tensor]:
    """One problem [1, N, d] of twice as many centres as clusters, and its first rows as a start."""
    x = normal(setting, 1, n, d, dtype=torch.float32)
    centres = normal(setting, 1, 2 * k, d, dtype=torch.float32, seed=1) / 2
    for part in torch.arange(n, device=x.device).split(BLOCK):
        x[:, part] += centres[:, part * 7919 % (2 * k)]
    return x, x[:, :k].clone()


def _named(centroids: Tensor) -> Outputs:
    return {"centroids": centroids}


class Pruned:
    """The centroids pass ``clustered``, and in three clusters the rows removed are those of SemDeDup's rule in float64.

    Rows within 1e-6 of the threshold may go either way in ``_EPS``. The error is the share of rows decided wrongly.
    """

    def __init__(self, x: Tensor, clustered: Gate) -> None:
        self._x, self._clustered = x, clustered

    def check(self, outputs: Outputs) -> Verdict:
        verdict = self._clustered.check(outputs)
        if not verdict.passed:
            return verdict
        wrong = rows = 0
        for cluster in range(3):
            members = (outputs["labels"] == cluster).nonzero()[:, 0]
            unit = torch.nn.functional.normalize(self._x[members].double())
            before = torch.tril(unit @ unit.T, -1).amax(1)  # 0 where nothing before is alike
            wrong += int((((before > 1 - _EPS) == outputs["kept"][members]) & ((before - 1 + _EPS).abs() > 1e-6)).sum())
            rows += len(members)
        return Verdict(wrong == 0, wrong / max(rows, 1), 0.0, "rows kept")


def _build_pruned(setting: Setting, *, n: int, d: int, k: int, iterations: int) -> Workload:
    """Clusters, then near-duplicates inside them.

    "products in bfloat16" is a roofline measured in the same run: torch's products of the rows with the centroids, as
    often as Lloyd's iteration needs them, and of half the pairs in each cluster; nothing else.
    """
    if setting.tiny:
        n, k, d, iterations = n // 1000, k // 100, min(d, 32), 3
    x, start = _blobs(setting, n, d, k)
    copies = torch.arange(19, n, 20, device=x.device)
    for part in copies.split(BLOCK):
        x[:, part] = x[:, part - 7] + 0.05 * normal(setting, len(part), d, dtype=torch.float32, seed=int(part[0]))
    expected = functools.cache(lambda: lloyd(x, start, iterations, x.dtype))
    rows = x[0]

    def ours() -> tuple[KMeansResult[Tensor], Tensor]:
        found = kmeans(rows, k, init=start[0], max_iter=iterations, stop="labels", impl="native")
        return found, semdedup(rows, found.labels, eps=_EPS, keep="reference", impl="native").kept

    def shown(found: tuple[KMeansResult[Tensor], Tensor]) -> Outputs:
        return {"centroids": found[0].centroids[None], "labels": found[0].labels, "kept": found[1]}

    def products() -> Callable[[], Tensor]:
        narrow, columns = rows.bfloat16(), start[0].bfloat16().T
        out = torch.empty(BLOCK, k, dtype=torch.bfloat16)
        size = n // k
        pairs = torch.empty(size // 2, size, dtype=torch.bfloat16)

        def run() -> Tensor:
            for _ in range(iterations + 1):
                for part in narrow.split(BLOCK):
                    torch.mm(part, columns, out=out[: len(part)])
            for cluster in narrow[: k * size].view(k, size, d):
                torch.mm(cluster[: size // 2], cluster.T, out=pairs)
            return out[: len(last)]

        return run

    last = rows[(n - 1) // BLOCK * BLOCK :]
    product = Close(
        lambda: {"product": last.double() @ start[0].double().T},
        lambda: {"product": last.bfloat16().float() @ start[0].bfloat16().float().T},
        required=["product"],
        rounding=torch.bfloat16,
    )
    work = cost(2.0 * n * d * (k * (iterations + 1) + n / k / 2), [x], 1.0 * n, torch.bfloat16)
    gate = Pruned(rows, Inertia(x, expected, 2**-8 if setting.tiny else 1e-4))
    contenders = (
        Contender("native", lambda: ours, gate, shown, ours=True, cost=work),
        Contender("products in bfloat16", products, product, lambda value: {"product": value}, cost=work),
    )
    return Workload({"N": n, "d": d, "K": k, "iterations": iterations}, contenders, n)


def _build_warm(setting: Setting, *, n: int, d: int, k: int) -> Workload:
    """1 % of the rows are replaced by others of the same centres; every fit runs until no label changes.

    A cold fit starts from random rows, as nobody knows the centres; a warm one from the fit before the rows changed.
    """
    if setting.tiny:
        n, k, d = n // 100, k // 32, min(d, 32)
    centres = normal(setting, k, d, dtype=torch.float32, seed=1)
    x = normal(setting, n, d, dtype=torch.float32) / 2 + centres[torch.arange(n) * 7919 % k]
    random = torch.randperm(n, generator=torch.Generator().manual_seed(3))[:k]
    former = kmeans(x, k, init=x[random], max_iter=1000, stop="labels", remember=True, impl="native")
    new = torch.arange(n) % 100 == 0
    x[new] = (normal(setting, n, d, dtype=torch.float32, seed=2) / 2 + centres[torch.arange(n) * 104729 % k])[new]

    def fit(start: Any, max_iter: int, *, remember: bool = False) -> KMeansResult[Tensor]:
        return kmeans(x, k, init=start, max_iter=max_iter, stop="labels", remember=remember, impl="native")

    def ours(name: str, gate: Gate, start: Any, max_iter: int) -> Contender:
        """Its operations are those that it counted."""
        products = cast("Memory", fit(start, max_iter, remember=True).memory).products
        work = cost(2.0 * d * float(products), [x], 4.0 * k * d, torch.bfloat16)
        run = functools.partial(fit, start, max_iter)
        return Contender(name, lambda: lambda: run().centroids, gate, named, ours=True, cost=work)

    def named(centroids: Tensor) -> Outputs:
        return {"centroids": centroids[None]}

    cold = x[random]
    one = Inertia(x[None], lambda: lloyd(x[None].double(), cold[None].double(), 1, torch.float64), 1e-6)
    contenders = [
        ours("refit", Settled(x[None]), cold, 1000),
        ours("warm", Settled(x[None]), former, 1000),
        ours("warm, centroids alone", Settled(x[None]), former.centroids, 1000),
        ours("one iteration", one, cold, 1),
    ]
    return Workload({"N": n, "d": d, "K": k, "replaced": "1 %"}, tuple(contenders), n)


def _case(name: str, rank: int, **shape: Any) -> Case:
    build = functools.partial(_build, **{"problems": 1, "blobs": True, **shape})
    return Case(f"kmeans-{name}", build, "scikit-learn", rank, ("cpu",), ("native", "scikit-learn"))


CASES = (
    _case("100000x128-256", 50, n=100_000, d=128, k=256, iterations=20),
    _case("50000x512-1000", 51, n=50_000, d=512, k=1000, iterations=10),
    _case("20000x2048-100", 52, n=20_000, d=2048, k=100, iterations=20, blobs=False),
    _case("64-of-2000x64-16", 53, problems=64, n=2000, d=64, k=16, iterations=20, blobs=False),
    _case("40000x768-4000", 54, n=40_000, d=768, k=4000, iterations=6),
    Case("kmeans-busy", functools.partial(_build_busy, n=100_000, d=128, k=256, iterations=20), "native", 56, ("cpu",)),
    Case(
        "kmeans-1000000x384-1000-dedup",
        functools.partial(_build_pruned, n=1_000_000, d=384, k=1000, iterations=20),
        "products in bfloat16",
        57,
        ("cpu",),
    ),
    Case("kmeans-warm", functools.partial(_build_warm, n=100_000, d=128, k=256), "refit", 55, ("cpu",)),
)
