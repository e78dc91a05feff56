"""What the methods of other papers share: one order of the samples, finite inputs, one way to report a choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptinf.errors import DataError, NonFiniteError
from adaptinf.selection.budget import resolve_budget
from adaptinf.selection.cluster import Clustering, cluster, normalise
from adaptinf.selection.pool import Needs, Pool, Selection, order_by_id
from adaptinf.selection.scorers import PAPER_SCORERS
from adaptinf.selection.screening import without_pictures


@dataclass(frozen=True)
class Choice:
    """What a method decided over a pool that is sorted by id.

    Attributes:
        chosen: int64 [budget], rows of the pool, no row twice.
        score: float64 [N], the number that decided, NaN where there was none.
        scorer: its name.
        cluster: int32 [N], -1 for none; None where the method has no clusters.
        facts: JSON-able, for the summary.
    """

    chosen: NDArray[np.int64]
    score: NDArray[np.float64]
    scorer: str
    cluster: NDArray[np.int32] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Method(ABC):
    """A selector that chooses exactly ``budget`` samples, whatever the order of the pool.

    The samples are put into the order of their ids first, so that a seed's draw depends on the ids alone. Scores and
    features that are not finite are an error that names the samples; a score that does not exist for a sample (Image
    Grounding without a picture) is not.
    """

    name: str

    @abstractmethod
    def needs(self) -> Needs:
        """The parts of a pool that ``choose`` reads."""

    @abstractmethod
    def choose(self, pool: Pool, budget: int, rng: np.random.Generator) -> Choice:
        """Choose from a pool that is sorted by id; ``budget`` is resolved."""

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        """Decide over every sample of the pool.

        Raises:
            BudgetError: the budget is not positive or larger than the pool.
            DataError: the pool lacks a part that the method reads.
            NonFiniteError: a score or a feature is not finite.
        """
        budget = resolve_budget(budget, len(pool))
        order = order_by_id(pool.ids)
        choice = self.choose(pool.take(order), budget, np.random.default_rng(seed))
        assert len(np.unique(choice.chosen)) == budget, f"{self.name} chose {choice.chosen} for {budget}"
        n = len(pool)
        selected, score, cluster = np.zeros(n, bool), np.full(n, np.nan), np.full(n, -1, np.int32)
        selected[order[choice.chosen]] = True
        score[order] = choice.score
        if choice.cluster is not None:
            cluster[order] = choice.cluster
        return Selection(
            selected=selected,
            cluster=cluster,
            scorer=[choice.scorer] * n,
            score=score,
            reason=[
                f"{'chosen' if taken else 'left out'} by {self.name}: "
                + (f"no {choice.scorer}" if np.isnan(value) else f"{choice.scorer} {value:.4g}")
                for taken, value in zip(selected, score, strict=True)
            ],
            summary={
                "selector": self.name,
                "seed": seed,
                "budget": budget,
                "n_pool": n,
                "n_selected": budget,
                "k": 0 if choice.cluster is None else int(choice.cluster.max()) + 1,
                **choice.facts,
            },
        )


class ClusterMethod(Method):
    """A method that works on k-means clusters of the hidden means."""

    def __init__(self, n_clusters: int | Literal["auto"] = 10) -> None:
        self.n_clusters: int | Literal["auto"] = n_clusters

    def needs(self) -> Needs:
        return Needs(hidden=True)

    def clusters_of(self, unit: NDArray[np.float32], rng: np.random.Generator) -> Clustering:
        """k-means on unit rows; a pool smaller than ``n_clusters`` makes as many clusters as it has samples."""
        wanted = self.n_clusters if self.n_clusters == "auto" else min(self.n_clusters, len(unit))
        return cluster(unit, wanted, seed=int(rng.integers(2**31)))


def highest(values: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The rows of the ``count`` largest values, largest first. Ties are drawn; NaN comes last, drawn too."""
    return ranked(values, rng)[:count]


def ranked(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """All rows, the largest value first; ties are drawn, NaN comes last, drawn too."""
    return np.lexsort((rng.random(len(values)), -values))  # NaN is sorted last, negated or not


def score_of(pool: Pool, name: str) -> NDArray[np.float64]:
    """The paper's scorer of this name over the pool; NaN only where the sample has no such score.

    Raises:
        DataError: the pool lacks a column of the scorer.
        NonFiniteError: a value is not finite.
    """
    scorer = PAPER_SCORERS[name]
    values = scorer.values(pool.scores)
    meaningless = without_pictures(pool.scores, len(pool)) if scorer.image_only else np.zeros(len(pool), bool)
    _check(pool.ids, ~np.isfinite(values) & ~meaningless, name)
    return values


def unit_rows(pool: Pool, part: Literal["sketch", "hidden", "direction"]) -> NDArray[np.float32]:
    """The rows of one of the pool's matrices, scaled to unit length; a zero row stays zero.

    Raises:
        DataError: the pool lacks them.
        NonFiniteError: a row is not finite.
    """
    rows = getattr(pool, part)
    if rows is None:
        raise DataError(f"has no {part}", item="pool", remedy=f"extract features with {part}s")
    _check(pool.ids, ~np.isfinite(rows).all(axis=1), part)
    return normalise(rows)[0]


def _check(ids: Sequence[str], bad: ArrayLike, what: str) -> None:
    at = np.flatnonzero(bad)
    if len(at):
        raise NonFiniteError(
            f"{len(at)} of {len(ids)} samples have a {what} that is not finite",
            item=", ".join([ids[int(i)] for i in at[:5]] + ["..."] * (len(at) > 5)),
            remedy="look at these samples, or set features.on_nonfinite to drop or zero",
        )
