"""A temperature that makes a router's probabilities mean what they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LOWEST, _HIGHEST = 1e-3, 1e3


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The T > 0 that minimises the mean NLL of ``softmax(logits / T)`` at the labels, in [1e-3, 1e3].

    With b = 1/T the NLL is convex, its derivative ``mean(E_p[z] - z_y)`` increases in b: bisection on log b. Logits
    that are right everywhere have no finite minimum; the border is returned then.

    Args:
        logits: float [N, T], of requests that the logits' model was not fitted on.
        labels: int [N].

    Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    z = z - z.max(axis=1, keepdims=True)
    right = z[np.arange(len(z)), y]

    def slope(b: float) -> float:
        return float(((softmax(b * z) * z).sum(axis=1) - right).mean())

    low, high = np.log(1 / _HIGHEST), np.log(1 / _LOWEST)
    if slope(np.exp(low)) >= 0:
        return _HIGHEST
    if slope(np.exp(high)) <= 0:
        return _LOWEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row by row."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
