"""k-means as a scikit-learn estimator, for those who have scikit-learn (the extra ``sklearn``)."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from adaptinf_kernels import KMeansResult, kmeans
from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.kmeans.options import Empty, Init, Metric, Precision, Stop
from numpy.typing import NDArray

from adaptinf.errors import MissingDependencyError

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise MissingDependencyError(
        "scikit-learn 1.6 or newer is not installed",
        item="adaptinf.selection.KMeans",
        remedy="pip install 'adaptinf[sklearn]'",
    ) from error


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """``adaptinf_kernels.kmeans`` behind scikit-learn's interface, with the same bits.

    Parameters
    ----------
    n_clusters : int
        Number of clusters, at most the number of rows.
    init, max_iter, tol, stop, metric, precision, empty, impl
        As in :func:`adaptinf_kernels.kmeans`.
    decay : float
        What the rows seen so far count in :meth:`partial_fit`, 1 for as much as new ones.
    random_state : int, RandomState or None
        The seed of the initialisation is drawn from it.

    Attributes
    ----------
    cluster_centers_ : [K, d], float32 for float32 and float16 rows, otherwise float64.
    labels_ : int32 [N], of the rows of the last fit or step.
    inertia_ : float
        Sum of weight times squared distance (or 1 - cosine), of the same rows and centroids.
    n_iter_ : int
    result_ : :class:`adaptinf_kernels.KMeansResult`
        All of it: sizes, radii, weights.
    n_features_in_ : int
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Init | NDArray[np.floating] = "k-means++",
        max_iter: int = 300,
        tol: float = 1e-4,
        stop: Stop = "shift",
        metric: Metric = "euclidean",
        precision: Precision = "exact",
        empty: Empty = "farthest",
        decay: float = 1.0,
        random_state: Any = None,
        impl: Impl = "auto",
    ) -> None:
        self.n_clusters = n_clusters
        self.init: Init | NDArray[np.floating] = init
        self.max_iter = max_iter
        self.tol = tol
        self.stop: Stop = stop
        self.metric: Metric = metric
        self.precision: Precision = precision
        self.empty: Empty = empty
        self.decay = decay
        self.random_state = random_state
        self.impl: Impl = impl

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Cluster the rows of X [N, d]; y is ignored."""
        rows = self._rows(X, reset=True)
        if len(rows) < self.n_clusters:
            raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={self.n_clusters}")
        self._keep(
            kmeans(
                rows,
                self.n_clusters,
                init=self.init if isinstance(self.init, str) else np.asarray(self.init, dtype=rows.dtype),
                max_iter=self.max_iter,
                tol=self.tol,
                stop=self.stop,
                metric=self.metric,
                precision=self.precision,
                sample_weight=self._weights(sample_weight, rows),
                empty=self.empty,
                seed=int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max)),
                impl=self.impl,
            )
        )
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """A fit of the first rows, then steps to further ones: :meth:`adaptinf_kernels.KMeansResult.partial_fit`."""
        if not hasattr(self, "result_"):
            return self.fit(X, sample_weight=sample_weight)
        rows = self._rows(X, reset=False)
        weights = self._weights(sample_weight, rows)
        self._keep(self.result_.partial_fit(rows, sample_weight=weights, decay=self.decay, impl=self.impl))
        return self

    def predict(self, X: Any) -> NDArray[np.int32]:
        """Nearest centroid of each row."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        return self.result_.predict(rows, precision=self.precision, impl=self.impl).astype(np.int32)

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Distances [N, K] from the centroids: Euclidean, or 1 - cosine."""
        check_is_fitted(self)
        return self.result_.transform(self._rows(X, reset=False), impl=self.impl)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the inertia that the centroids have on X."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        nearest = self.result_.top_m(rows, 1, impl=self.impl)[1][:, 0]
        cost = nearest if self.metric == "cosine" else nearest**2
        weights = self._weights(sample_weight, rows)
        return -float(cost.sum() if weights is None else (weights * cost).sum())

    @property
    def _n_features_out(self) -> int:
        """For scikit-learn's names of what ``transform`` gives."""
        return len(self.cluster_centers_)

    def _rows(self, X: Any, *, reset: bool) -> NDArray[np.floating]:
        """Finite rows, in later calls of the dtype of the centroids."""
        dtypes = (np.float64, np.float32, np.float16) if reset else self.cluster_centers_.dtype
        return cast("NDArray[np.floating]", validate_data(self, X, reset=reset, dtype=dtypes))

    def _weights(self, sample_weight: Any, rows: NDArray[np.floating]) -> NDArray[np.float64] | None:
        return None if sample_weight is None else _check_sample_weight(sample_weight, rows, dtype=np.float64)

    def _keep(self, result: KMeansResult[Any]) -> None:
        self.result_ = result
        self.cluster_centers_ = result.centroids
        self.labels_ = result.labels.astype(np.int32)
        self.inertia_ = result.inertia
        self.n_iter_ = result.n_iter
