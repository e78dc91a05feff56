"""Real vectors with labels, for problems that are trained again hundreds of times."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DATASETS = ("qasc", "quartz", "quarel", "commonsense_qa", "cosmos_qa", "social_i_qa")


@dataclass(frozen=True)
class Labelled:
    """``x`` [n, d] float64 of mean square 1, ``y`` [n, c] one-hot."""

    x: np.ndarray
    y: np.ndarray

    def rows(self, chosen: np.ndarray) -> Labelled:
        return Labelled(self.x[chosen], self.y[chosen])

    def components(self, d: int) -> Labelled:
        """The first ``d`` principal components."""
        centred = self.x - self.x.mean(0)
        return _labelled(centred @ np.linalg.svd(centred, full_matrices=False)[2][:d].T, self.y.argmax(1))


def digits(_: Path) -> Labelled:
    """scikit-learn's 1,797 handwritten digits of 8 by 8 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _labelled(found.data - found.data.mean(0), found.target)


def texts(data: Path) -> Labelled:
    """Sentence vectors of the instructions of six data sets of questions; which one it is from is the label."""
    with gzip.open(data / "vectors" / "p3_minilm_rows.jsonl.gz", "rt", encoding="utf-8") as lines:
        names = np.array([json.loads(line)["dataset"] for line in lines])
    chosen = np.flatnonzero(np.isin(names, DATASETS))
    vectors = np.load(data / "vectors" / "p3_minilm_f16.npy", mmap_mode="r")[chosen]
    return _labelled(vectors, np.array([DATASETS.index(name) for name in names[chosen]]))


SOURCES: dict[str, Callable[[Path], Labelled]] = {"digits": digits, "texts": texts}


def _labelled(x: np.ndarray, label: np.ndarray) -> Labelled:
    x = x.astype(np.float64)
    return Labelled(x / np.sqrt(np.mean(x**2)), np.eye(int(label.max()) + 1)[label])
