"""How far the inner products of sketches are from the true ones."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

NEIGHBOURS = 10


def compare(gram: np.ndarray, sketch: np.ndarray) -> dict[str, float]:
    """``gram`` [N, N] are the inner products ``<u, v>`` of the gradients, ``sketch`` is [N, k].

    * ``error``: root mean square over pairs of ``<Su, Sv> - <u, v>``, each in units of the standard deviation that k
      independent Gaussian rows give, ``sqrt((|u|^2 |v|^2 + <u, v>^2) / k)``.
    * ``spearman``: rank correlation of a sample's inner products with all others, mean over samples.
    * ``recall``: share of a sample's ten nearest by cosine that are among its ten nearest sketches, mean over samples.
    """
    found = sketch.astype(np.float64) @ sketch.astype(np.float64).T
    norms, pairs = np.diagonal(gram), np.triu_indices(len(gram), 1)
    variance = (np.outer(norms, norms) + gram**2) / sketch.shape[1]
    return {
        "error": float(np.sqrt(np.mean((found - gram)[pairs] ** 2 / variance[pairs]))),
        "spearman": float(np.mean(_spearman(_others(gram), _others(found)))),
        "recall": float(np.mean(_recall(_others(_cosine(gram)), _others(_cosine(found))))),
    }


def independent(gram: np.ndarray, k: int, seed: int) -> np.ndarray:
    """[N, k]: a draw of the sketches by k independent Gaussian rows.

    Their law depends on the Gram matrix alone, so it is drawn from that, without the rows.
    """
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return root @ np.random.default_rng(seed).standard_normal((len(gram), k)) / k**0.5


def _others(matrix: np.ndarray) -> np.ndarray:
    """[N, N - 1]: the rows without the diagonal."""
    return matrix[~np.eye(len(matrix), dtype=bool)].reshape(len(matrix), -1)


def _cosine(gram: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.maximum(np.diagonal(gram), np.finfo(np.float64).tiny))
    return gram / np.outer(norms, norms)


def _spearman(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    a, b = (rankdata(rows, axis=1) for rows in (truth, found))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def _recall(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    nearest = [np.argsort(-rows, axis=1, kind="stable")[:, :NEIGHBOURS] for rows in (truth, found)]
    return np.array([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(*nearest, strict=True)])
