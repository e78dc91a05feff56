"""k-means on GPUs: many problems, or one large one, in bfloat16, from one start for as many iterations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from adaptinf_kernels import kmeans
from torch import Tensor

from benchmarks.case import Case, Contender, Outputs, Setting, Workload
from benchmarks.cases.common import cost
from benchmarks.cases.kmeans import Inertia, batched, lloyd
from benchmarks.peers import cuml_kmeans, faiss_gpu, flash_kmeans, module


def _flash_kmeans(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor]:
    """Its centroids have the dtype of the rows."""
    fit = flash_kmeans(x.device)
    first = start.to(x.dtype)
    return lambda: fit(x, start.shape[1], max_iters=iterations, tol=0.0, init_centroids=first)[1]


def _fastkmeans_on_gpu(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor]:
    """It draws its start itself, and takes numbers from the host."""
    package, k = module("fastkmeans", "fastkmeans"), start.shape[1]
    rows = x[0].float().cpu().numpy()

    def fit() -> Tensor:
        options = {"max_points_per_centroid": len(rows), "gpu": True, "use_triton": True}
        one = package.FastKMeans(rows.shape[1], k, niter=iterations, tol=0, **options)
        one.train(rows)
        return torch.from_numpy(one.centroids)[None].to(x.device)

    return fit


def _faiss_on_gpu(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor]:
    """It takes numbers from the host."""
    faiss = faiss_gpu(x.device)
    rows, first = x[0].float().cpu().numpy(), start[0].cpu().numpy()

    def fit() -> Tensor:
        one = faiss.Kmeans(
            rows.shape[1], len(first), niter=iterations, max_points_per_centroid=len(rows), nredo=1, gpu=True
        )
        one.train(rows, init_centroids=first)
        return torch.from_numpy(one.centroids.copy())[None].to(x.device)

    return fit


def _cuml(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor]:
    """In float32, which is all that it takes."""
    estimator, rows = cuml_kmeans(x.device), x[0].float()

    def fit() -> Tensor:
        found = estimator(len(start[0]), init=start[0], n_init=1, max_iter=iterations, tol=0.0).fit(rows)
        return torch.as_tensor(found.cluster_centers_, device=x.device)[None]

    return fit


def _build(setting: Setting, *, problems: int, n: int, d: int, k: int, iterations: int) -> Workload:
    """Normal rows in bfloat16; peers that know no batches take part where there is one problem."""
    if setting.tiny:
        problems, n, d, k, iterations = min(problems, 3), 256, min(d, 32), 4, 3
    generator = torch.Generator(setting.device).manual_seed(0)  # on the device: up to 1.3 G numbers
    x = torch.randn(problems, n, d, generator=generator, device=setting.device, dtype=setting.dtype)
    start = x[:, :k].float()
    expected = functools.cache(lambda: lloyd(x.double(), start.double(), iterations, torch.float64))
    exact, rough = Inertia(x, expected, 1e-6), Inertia(x, expected, 2**-8 if setting.tiny else 1e-4)
    other = Inertia(x, expected, 0.1 if setting.tiny else 0.03)  # from another start

    def ours(precision: Any) -> Tensor:
        found = kmeans(x, k, init=start, max_iter=iterations, stop="labels", precision=precision, impl="native")
        return found.centroids

    def in_torch(fit: Callable[..., Tensor], *options: Any) -> Callable[[], Callable[[], Tensor]]:
        def prepare() -> Callable[[], Tensor]:
            wide = x.float()
            return lambda: fit(wide, start, iterations, *options)

        return prepare

    def named(centroids: Tensor) -> Outputs:
        return {"centroids": centroids}

    flops = cost(2.0 * problems * n * k * d * iterations, [x], 4.0 * problems * k * d, torch.bfloat16)
    contenders = [
        Contender("native", lambda: lambda: ours("exact"), exact, named, ours=True, cost=flops),
        Contender("native, fast", lambda: lambda: ours("fast"), rough, named, ours=True, cost=flops),
        Contender("flash-kmeans", lambda: _flash_kmeans(x, start, iterations), rough, named, cost=flops),
    ]
    if problems > 1:
        contenders.append(Contender("torch, batched", in_torch(batched), rough, named))
    else:
        contenders += [
            Contender("torch, bfloat16", in_torch(lloyd, torch.bfloat16), rough, named, cost=flops),
            Contender("cuML, float32", lambda: _cuml(x, start, iterations), rough, named),
            Contender("faiss-gpu, float32", lambda: _faiss_on_gpu(x, start, iterations), rough, named),
            Contender("fastkmeans, its own start", lambda: _fastkmeans_on_gpu(x, start, iterations), other, named),
        ]
    shape = {"problems": problems, "N": n, "d": d, "K": k, "iterations": iterations, "dtype": str(x.dtype)}
    return Workload(shape, tuple(contenders), problems * n)


def _case(name: str, rank: int, **shape: Any) -> Case:
    return Case(f"kmeans-{name}", functools.partial(_build, **shape), "flash-kmeans", rank, ("gpu",))


CASES = (
    _case("4096-of-2000x64-16", 70, problems=4096, n=2000, d=64, k=16, iterations=20),
    _case("8-of-16384x128-100", 71, problems=8, n=16_384, d=128, k=100, iterations=10),
    _case("8-of-131072x128-100", 72, problems=8, n=131_072, d=128, k=100, iterations=10),
    _case("32-of-131072x128-1000", 73, problems=32, n=131_072, d=128, k=1000, iterations=10),
    _case("1000000x1536-1000", 74, problems=1, n=1_000_000, d=1536, k=1000, iterations=25),
    _case("10000000x128-20000", 75, problems=1, n=10_000_000, d=128, k=20_000, iterations=3),
)
