"""``python -m benchmarks.quality.groups --data BUNDLE``: do clusters and near-duplicates agree with what is known?

For every ``vectors/NAME_f16.npy`` of the bundle, whose rows ``vectors/NAME_rows.jsonl.gz`` names: clusters of
``adaptinf.selection.cluster`` against the rows' dataset and group (purity, adjusted Rand index, normalised mutual
information), and what ``adaptinf.selection.dedup`` removes against the groups, whose rows come from one item. Prints
the tables of docs/measured-facts.md. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from adaptinf.selection import cluster, dedup

TRUTHS = ("dataset", "group")
COUNTS = (10, 20, 50, 100, 500, 1000, 2400)
EPS = (0.02, 0.05, 0.1, 0.2)
RULES = ("greedy", "reference", "components")
BLOCK = 2048


class Agreement(NamedTuple):
    """Of a clustering with known classes: 1 is perfect, the adjusted Rand index of chance is 0."""

    purity: float
    rand: float
    information: float


class Found(NamedTuple):
    """Near-duplicates. ``precision``: the share of them that are of one group; ``recall``: of those there are."""

    number: int
    precision: float
    recall: float


def agreement(labels: NDArray[Any], truth: NDArray[Any]) -> Agreement:
    """Purity: the share of rows in the commonest class of their cluster. Information is divided by the mean entropy."""
    most = contingency_matrix(truth, labels, sparse=True).max(axis=0)
    return Agreement(
        float(most.sum() / len(labels)),
        float(adjusted_rand_score(truth, labels)),
        float(normalized_mutual_info_score(truth, labels)),
    )


def removed(kept: NDArray[np.bool_], duplicate_of: NDArray[np.int64], group: NDArray[Any]) -> Found:
    """A removed row is right if the row it duplicates is of its group; all but one of each group could be removed."""
    right = np.count_nonzero(group[~kept] == group[duplicate_of[~kept]])
    surplus = len(group) - len(np.unique(group))
    number = np.count_nonzero(~kept)
    return Found(number, right / max(number, 1), right / max(surplus, 1))


def pairs(rows: NDArray[np.floating], eps: float, group: NDArray[Any]) -> Found:
    """All pairs whose cosine exceeds 1 - eps against all pairs of one group: what no rule can be better than."""
    x = rows.astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    number = right = 0
    for at in range(0, len(x), BLOCK):
        i, j = np.nonzero(x[at : at + BLOCK] @ x.T > 1 - eps)
        i, j = i[j > i + at] + at, j[j > i + at]
        number += len(i)
        right += np.count_nonzero(group[i] == group[j])
    sizes = np.unique(group, return_counts=True)[1]
    return Found(number, right / max(number, 1), right / max((sizes * (sizes - 1) // 2).sum(), 1))


def read(data: Path) -> Iterator[tuple[str, NDArray[np.float16], list[dict[str, str]]]]:
    """Name, vectors and what is known of each row."""
    for file in sorted((data / "vectors").glob("*_f16.npy")):
        name = file.name.removesuffix("_f16.npy")
        with gzip.open(file.with_name(f"{name}_rows.jsonl.gz"), "rt", encoding="utf-8") as lines:
            yield name, np.load(file), [json.loads(line) for line in lines]


def report(name: str, rows: NDArray[np.floating], known: Sequence[dict[str, str]], seed: int) -> Iterator[str]:
    """The lines of both tables; cells of the second are number / precision / recall."""
    truth = {what: np.array([row[what] for row in known]) for what in TRUTHS}
    about = ", ".join(f"{len(np.unique(labels)):,} {what}s" for what, labels in truth.items())
    yield f"{name}: {len(rows):,} rows, {rows.shape[1]} columns, {about}"
    yield ""
    yield f"| K | {' | '.join(f'{what}: purity / ARI / NMI' for what in TRUTHS)} |"
    yield f"|---|{'---|' * len(TRUTHS)}"
    for k in ("auto", *COUNTS):
        found = cluster(rows, k, seed=seed)
        cells = (" / ".join(f"{value:.3f}" for value in agreement(found.labels, truth[what])) for what in TRUTHS)
        yield f"| {found.k}{' (elbow)' * (k == 'auto')} | {' | '.join(cells)} |"
    yield ""
    yield "Number / precision / recall, against the groups:"
    yield ""
    yield f"| eps | all pairs above 1 - eps | {' | '.join(f'removed, {keep}' for keep in RULES)} |"
    yield f"|---|---|{'---|' * len(RULES)}"
    for eps in EPS:
        cells = [pairs(rows, eps, truth["group"])]
        for keep in RULES:
            decided = dedup(rows, eps, clusters=1, keep=keep)
            cells.append(removed(decided.kept, decided.duplicate_of, truth["group"]))
        text = (f"{cell.number:,} / {cell.precision:.3f} / {cell.recall:.3f}" for cell in cells)
        yield f"| {eps} | {' | '.join(text)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.groups", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data bundle")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, rows, known in read(options.data):
        for line in report(name, rows, known, options.seed):
            print(line, flush=True)


if __name__ == "__main__":
    main()
