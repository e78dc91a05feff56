"""Lloyd's iteration by name: this library's, or that of FAISS or cuVS where they are installed."""

from __future__ import annotations

import importlib
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptinf.errors import ConfigError, MissingDependencyError

Backend = Literal["adaptinf", "faiss", "cuvs"]

ITERATIONS = 100
"""At most so many, by every backend."""

ROWS_AT_ONCE = 65_536
"""Rows whose distances are held in float64."""


class Fit(NamedTuple):
    """Labels [N] of the nearest of the centroids, float32 [K, d], their inertia, and the iterations made."""

    labels: NDArray[np.int64]
    centroids: NDArray[np.float32]
    inertia: float
    n_iter: int


def fit(rows: NDArray[np.float32], k: int, seed: int, backend: Backend) -> Fit:
    """Euclidean k-means of finite, contiguous rows [N, d], 1 <= k <= N.

    Every backend starts from the same centroids, those of ``adaptinf_kernels.kmeans`` for this seed. Only
    ``adaptinf`` labels exactly and promises bits; the others compute distances in float32 and treat an empty cluster
    in their own way. FAISS runs on the CPU and sees all rows, cuVS on the current CUDA device.

    Raises:
        ConfigError: the backend is unknown.
        MissingDependencyError: it is not installed, or cuVS finds no CUDA device.
    """
    from adaptinf_kernels import kmeans

    if backend == "adaptinf":
        found = kmeans(rows, k, seed=seed, max_iter=ITERATIONS)
        return Fit(found.labels, found.centroids, found.inertia, found.n_iter)
    if backend not in _LLOYD:
        raise ConfigError("unknown backend", item=backend, remedy=f"choose from adaptinf, {', '.join(_LLOYD)}")
    lloyd = _LLOYD[backend]()
    labels, centroids, n_iter = lloyd(rows, kmeans(rows, k, seed=seed, max_iter=0).centroids)
    return Fit(labels, centroids, _inertia(rows, centroids, labels), n_iter)


class _Faiss:
    def __init__(self) -> None:
        try:
            faiss: Any = importlib.import_module("faiss")
        except ImportError as error:
            raise _missing("faiss", f"FAISS does not import ({error})", "pip install 'adaptinf[faiss]'") from error
        self._kmeans = faiss.Kmeans

    def __call__(
        self, rows: NDArray[np.float32], start: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
        k, d = start.shape
        every_row = -(-len(rows) // k)
        fitted = self._kmeans(
            d, k, niter=ITERATIONS, max_points_per_centroid=every_row, min_points_per_centroid=1, nredo=1
        )
        fitted.train(rows, init_centroids=start)
        _, labels = fitted.assign(rows)
        return labels, fitted.centroids, len(fitted.iteration_stats)


class _Cuvs:
    def __init__(self) -> None:
        import torch

        try:
            self._kmeans: Any = importlib.import_module("cuvs.cluster.kmeans")
        except ImportError as error:
            raise _missing("cuvs", f"cuVS does not import ({error})", "pip install 'adaptinf[cuvs]'") from error
        if not torch.cuda.is_available():
            raise _missing("cuvs", "cuVS needs a CUDA device, and torch finds none", "check nvidia-smi")

    def __call__(
        self, rows: NDArray[np.float32], start: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
        import torch

        x, centroids = (torch.from_numpy(part).to("cuda") for part in (rows, start))
        labels = torch.empty(len(rows), dtype=torch.int32, device="cuda")
        parameters = self._kmeans.KMeansParams(
            n_clusters=len(start), init_method="Array", max_iter=ITERATIONS, n_init=1
        )
        torch.cuda.synchronize()  # cuVS has a stream of its own
        _, _, n_iter = self._kmeans.fit(parameters, x, centroids=centroids)
        self._kmeans.predict(parameters, x, centroids, labels=labels)
        return labels.cpu().numpy().astype(np.int64), centroids.cpu().numpy(), int(n_iter)


_LLOYD = {"faiss": _Faiss, "cuvs": _Cuvs}
"""Made, one answers ``(rows [N, d], starting centroids [K, d])`` with labels, centroids and the iterations made."""


def _missing(backend: str, problem: str, remedy: str) -> MissingDependencyError:
    return MissingDependencyError(
        problem, item=f"backend={backend}", remedy=f"{remedy}, or choose the backend adaptinf"
    )


def _inertia(rows: NDArray[np.float32], centroids: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Sum of squared distances in float64."""
    blocks = range(0, len(rows), ROWS_AT_ONCE)
    parts = (slice(at, at + ROWS_AT_ONCE) for at in blocks)
    return float(sum(np.square(rows[part].astype(np.float64) - centroids[labels[part]]).sum() for part in parts))
