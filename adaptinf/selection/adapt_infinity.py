"""Adapt-infinity's choice of training samples: cluster, choose a scorer per cluster, spread the budget, sample."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from adaptinf.config import SelectionConfig
from adaptinf.errors import ConfigError, NoUsableScorerError
from adaptinf.selection import ccs, released
from adaptinf.selection.backends import Backend
from adaptinf.selection.budget import resolve_budget, water_fill
from adaptinf.selection.cluster import Clustering, cluster
from adaptinf.selection.pool import Needs, Pool, Selection, order_by_id
from adaptinf.selection.scorer_choice import Convention, choose_scorer, margin
from adaptinf.selection.scorers import DEFAULT_SCORERS, PAPER_SCORERS, RELEASED_SCORERS, Scorer, named_scorers
from adaptinf.selection.screening import OnNonFinite, Screened, screen
from adaptinf.selection.selector import register_selector


@dataclass(frozen=True)
class Preset:
    """One configuration of the pipeline.

    Attributes:
        convention: formulas of the scorer's choice and of sampling.
        scorers: what each scorer's name means.
        allocate: spreads the budget over the clusters' sizes.
        by_id: the pool is taken in the order of its ids, so that the decision does not depend on its own order.
        on_nonfinite: policy for NaN and infinities where the caller names none.
    """

    convention: Convention
    scorers: Mapping[str, Scorer]
    allocate: Callable[[Sequence[int], int], list[int]]
    by_id: bool
    on_nonfinite: OnNonFinite


_PAPER = Preset("paper", PAPER_SCORERS, water_fill, by_id=True, on_nonfinite="raise")

PRESETS: Mapping[str, Preset] = {
    "paper": _PAPER,
    "released": Preset("released", RELEASED_SCORERS, released.water_fill, by_id=False, on_nonfinite="zero"),
    "lite": _PAPER,
}
"""``paper``: the published intent. ``released``: the released code's formulas, defects included; only its k-means,
which nobody can repeat (unseeded mini-batches), is ours. ``lite`` selects as ``paper`` does: what makes LITE lighter
is that its pool is pruned after every step, which is the loop's part (see ``prune``)."""


class AdaptInfinity:
    """The selector of Adapt-infinity.

    1. Samples are clustered by k-means on their L2-normalised sketches, or hidden means (``cluster``).
    2. In every cluster the scorer of the largest histogram entropy is chosen (``choose_scorer``). Image Grounding does
       not exist for a sample without pictures; the scorer competes where at least half of the cluster has it, and
       there the others are drawn last.
    3. The budget is water-filled over the clusters (``water_fill``).
    4. Each cluster's share is drawn by coverage-centric sampling (``ccs_sample``).

    A cluster without a usable scorer (a single sample, copies of one sample) says nothing about its samples: its share
    is drawn uniformly and the cluster is counted in the summary. When that is so in every cluster the scores
    themselves are at fault, and it is an error.

    With ``paper`` exactly ``min(budget, usable samples)`` are selected, and the result does not depend on the order of
    the pool. With ``released`` the number and the order follow that code.

    Args:
        preset: "paper", "released" or "lite", see ``PRESETS``.
        n_clusters: k, or "auto".
        backend: whose k-means, see ``cluster``.
        scorers: names the clusters choose from; the order breaks ties.
        bins: of the histograms and of the sampling.
        quantiles: range that is stratified (``paper``; fixed in ``released``).
        on_nonfinite: "raise", "drop" or "zero" for scores and features that are not finite (default: the preset's).
        cluster_by: "sketch" (the paper) or "hidden".
        scores: "raw" (the paper), or "ranks": each scorer's ranks in the whole pool, scaled to (0, 1), choose the
            scorer and draw the samples.

    Source: Adapt-infinity (Maharana et al., ICLR 2025), section 4 of the method's notes.
    """

    def __init__(
        self,
        preset: str = "paper",
        *,
        n_clusters: int | Literal["auto"] = 10,
        backend: Backend = "adaptinf",
        scorers: Sequence[str] = DEFAULT_SCORERS,
        bins: int = 50,
        quantiles: tuple[float, float] = (0.05, 0.95),
        on_nonfinite: OnNonFinite | None = None,
        cluster_by: Literal["sketch", "hidden"] = "sketch",
        scores: Literal["raw", "ranks"] = "raw",
    ) -> None:
        if preset not in PRESETS:
            raise ConfigError("unknown preset", item=preset, remedy=f"choose from {', '.join(PRESETS)}")
        if on_nonfinite not in (None, "raise", "drop", "zero"):
            raise ConfigError("unknown policy", item=str(on_nonfinite), remedy="choose from raise, drop, zero")
        if bins < 2:
            raise ConfigError(f"must be at least 2, got {bins}", item="bins")
        self.name = preset
        self.preset = PRESETS[preset]
        self.n_clusters: int | Literal["auto"] = n_clusters
        self.backend: Backend = backend
        self.scorers = named_scorers(scorers, self.preset.scorers)
        self.bins = bins
        self.quantiles = quantiles
        self.on_nonfinite: OnNonFinite = on_nonfinite or self.preset.on_nonfinite
        self.cluster_by: Literal["sketch", "hidden"] = cluster_by
        self.scores: Literal["raw", "ranks"] = scores

    def needs(self) -> Needs:
        columns = {column for scorer in self.scorers for column in scorer.columns}
        by_hidden = self.cluster_by == "hidden"
        return Needs(sketch=not by_hidden, hidden=by_hidden, scores=tuple(sorted(columns)))

    def select(self, pool: Pool, budget: int, seed: int) -> Selection:
        """Decide over the pool.

        Raises:
            BudgetError: the budget is larger than the pool, or (``released``) its rounded shares are.
            ClusterCountError: there are more clusters than usable samples.
            NonFiniteError: a score or a sketch is not finite, under that policy.
            NoUsableScorerError: no cluster of more than one sample has a scorer that varies.
            DataError: the pool lacks what is clustered, or a score column.
        """
        budget = resolve_budget(budget, len(pool))
        screened = screen(pool, self.scorers, self.on_nonfinite, self.cluster_by)
        scores = screened.values
        if self.scores == "ranks":
            scores = {name: _ranks(values, screened.usable) for name, values in scores.items()}
        order = order_by_id(pool.ids) if self.preset.by_id else np.arange(len(pool))
        rows = order[screened.usable[order]]
        clustering = cluster(screened.features[rows], self.n_clusters, seed=seed, backend=self.backend)
        shares = self.preset.allocate(clustering.sizes, min(budget, len(rows)))

        by_cluster = np.split(np.argsort(clustering.labels, kind="stable"), np.cumsum(clustering.sizes)[:-1])
        drawer = random.Random(seed)
        results = [
            self._in_cluster(
                {name: values[rows[members]] for name, values in scores.items()}, share, number, seed, drawer
            )
            for number, (members, share) in enumerate(zip(by_cluster, shares, strict=True))
        ]
        if all(result.scorer == "" for result in results) and max(clustering.sizes) > 1:
            raise NoUsableScorerError(
                "every one is constant or undefined in every cluster",
                item=", ".join(scorer.name for scorer in self.scorers),
                remedy="check the scores, name a scorer that varies, or select with random",
            )
        decision = _Decision(screened, results)
        for number, members in enumerate(by_cluster):
            decision.record(rows[members], number)
        return decision.selection(self._summary(budget, seed, screened, clustering, shares, results))

    def _in_cluster(
        self, scores: dict[str, NDArray[np.float64]], share: int, number: int, seed: int, drawer: random.Random
    ) -> _ClusterResult:
        """Choose the scorer of one cluster and draw its share."""
        size = len(next(iter(scores.values())))
        if self.preset.convention == "released":
            choice = choose_scorer(scores, bins=self.bins, convention="released")
            chosen, bin_of = released.ccs_sample(scores[choice.name], share, drawer, self.bins)
            stratum = np.where(bin_of < 0, self.bins, bin_of)
            return _ClusterResult(choice.name, choice.entropies, margin(choice), chosen, stratum, self.bins)
        rng = np.random.default_rng([seed, number])
        try:
            choice = choose_scorer(scores, bins=self.bins)
        except NoUsableScorerError:
            chosen = np.sort(rng.choice(size, share, replace=False))
            uniform = np.full(size, self.bins + 2)
            return _ClusterResult("", dict.fromkeys(scores, float("nan")), float("nan"), chosen, uniform, self.bins)
        chosen, stratum = ccs.draw(scores[choice.name], share, rng, self.bins, self.quantiles)
        return _ClusterResult(choice.name, choice.entropies, margin(choice), chosen, stratum, self.bins)

    def _summary(
        self,
        budget: int,
        seed: int,
        screened: Screened,
        clustering: Clustering,
        shares: list[int],
        results: list[_ClusterResult],
    ) -> dict[str, Any]:
        strata = [np.bincount(result.stratum[result.chosen], minlength=self.bins + 3) for result in results]
        return {
            "selector": self.name,
            "seed": seed,
            "budget": budget,
            "n_pool": len(screened.usable),
            "n_selected": sum(len(result.chosen) for result in results),
            "k": clustering.k,
            "backend": self.backend,
            "inertia": clustering.inertia,
            "n_iter": clustering.n_iter,
            "elbow": [{"k": k, "inertia": inertia} for k, inertia in clustering.elbow],
            "sizes": clustering.sizes,
            "capacities": [result.capacity(self.preset.convention) for result in results],
            "budgets": shares,
            "clusters": [
                {
                    "cluster": number,
                    "size": size,
                    "budget": share,
                    "selected": len(result.chosen),
                    "scorer": result.scorer,
                    "entropies": {name: _json(bits) for name, bits in result.entropies.items()},
                    "margin": _json(result.margin),
                }
                for number, (size, share, result) in enumerate(zip(clustering.sizes, shares, results, strict=True))
            ],
            "formulas": {scorer.name: scorer.formula for scorer in self.scorers},
            "counters": {
                "dropped": int((~screened.usable).sum()),
                "zero_features": clustering.zero_rows,
                "tail_fills": int(sum(counts[self.bins] for counts in strata)),
                "undefined_fills": int(sum(counts[self.bins + 1] for counts in strata)),
                "clusters_without_scorer": sum(result.scorer == "" for result in results),
                **{f"nonfinite_{name}": count for name, count in screened.counts.items()},
            },
            "on_nonfinite": self.on_nonfinite,
        }


def select(
    table: pa.Table,
    features: ArrayLike,
    budget: int | float,
    *,
    preset: str = "paper",
    seed: int = 0,
    n_clusters: int | Literal["auto"] = 10,
    backend: Backend = "adaptinf",
    scorers: Sequence[str] = DEFAULT_SCORERS,
    bins: int = 50,
    quantiles: tuple[float, float] = (0.05, 0.95),
    on_nonfinite: OnNonFinite | None = None,
) -> Selection:
    """Select training samples by Adapt-infinity, from a table of raw scores and a matrix of features.

    Args:
        table: N rows with the column ``id``, maybe ``task``, and the raw score columns that the scorers read (for the
            default ones ``nll``, ``el2n``, ``entropy``, ``nll_without_image`` and, if there, ``n_images``).
        features: float [N, k], row-aligned with the table: gradient sketches.
        budget: samples, or a share in (0, 1].
        preset: "paper", "released" or "lite"; this and the following are those of ``AdaptInfinity``.
        seed: of everything that draws.
        n_clusters: k, or "auto".
        backend: whose k-means, see ``cluster``.
        scorers: names the clusters choose from.
        bins: of the histograms and of the sampling.
        quantiles: range of a score that is stratified.
        on_nonfinite: "raise", "drop" or "zero".

    Raises:
        The errors of ``AdaptInfinity.select`` and ``Pool``.
    """
    pool = Pool.from_table(table, sketch=features)
    selector = AdaptInfinity(
        preset,
        n_clusters=n_clusters,
        backend=backend,
        scorers=scorers,
        bins=bins,
        quantiles=quantiles,
        on_nonfinite=on_nonfinite,
    )
    return selector.select(pool, resolve_budget(budget, len(pool)), seed)


class _ClusterResult(NamedTuple):
    """Of one cluster; ``stratum`` as in ``ccs.Draw``, and ``bins + 2`` for a uniform draw without a scorer."""

    scorer: str
    entropies: dict[str, float]
    margin: float
    chosen: NDArray[np.int64]
    stratum: NDArray[np.int64]
    bins: int

    def capacity(self, convention: Convention) -> int:
        """How many samples can be selected at all."""
        return len(self.stratum) if convention == "paper" else int(np.count_nonzero(self.stratum < self.bins))

    def reasons(self, number: int) -> NDArray[np.object_]:
        """By (selected, stratum): one sentence each."""
        by = f"of cluster {number} by {self.scorer}"
        places = [
            *(f"bin {b + 1}/{self.bins} {by}" for b in range(self.bins)),
            f"tail {by}",
            f"undefined {by}",
            f"cluster {number} without a usable scorer",
        ]
        drawn = [f"ccs {place}" for place in places[: self.bins]] + [
            f"tail fill {by}",
            f"undefined fill {by}",
            f"uniform draw, {places[-1]}",
        ]
        return np.array([[f"not drawn: {place}" for place in places], drawn], dtype=object)


class _Decision:
    """Collects the clusters' results into columns over the whole pool."""

    def __init__(self, screened: Screened, results: Sequence[_ClusterResult]) -> None:
        n = len(screened.usable)
        self._values, self._results = screened.values, results
        self._selected = np.zeros(n, dtype=bool)
        self._cluster = np.full(n, -1, dtype=np.int32)
        self._scorer = np.full(n, "", dtype=object)
        self._score = np.full(n, np.nan)
        self._reason = np.full(n, "", dtype=object)
        dropped = ~screened.usable
        self._reason[dropped] = [f"dropped: {name} is not finite" for name in screened.at_fault[dropped]]

    def record(self, rows: NDArray[np.int64], number: int) -> None:
        result = self._results[number]
        chosen = np.zeros(len(rows), dtype=bool)
        chosen[result.chosen] = True
        self._selected[rows] = chosen
        self._cluster[rows] = number
        self._scorer[rows] = result.scorer
        if result.scorer:
            self._score[rows] = self._values[result.scorer][rows]
        self._reason[rows] = result.reasons(number)[chosen.astype(np.intp), result.stratum]

    def selection(self, summary: dict[str, Any]) -> Selection:
        return Selection(
            self._selected, self._cluster, self._scorer.tolist(), self._score, self._reason.tolist(), summary
        )


def _ranks(values: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of the usable samples with this score that lie below, half of the equal ones included; else NaN."""
    known = usable & np.isfinite(values)
    ranks = np.full(len(values), np.nan)
    if known.any():
        _, place, copies = np.unique(values[known], return_inverse=True, return_counts=True)
        ranks[known] = (np.cumsum(copies) - copies / 2)[place] / known.sum()
    return ranks


def _json(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def _factory(preset: str) -> Callable[[SelectionConfig], AdaptInfinity]:
    def make(config: SelectionConfig) -> AdaptInfinity:
        return AdaptInfinity(
            preset,
            n_clusters=config.n_clusters,
            backend=config.backend,
            scorers=config.scorers,
            bins=config.bins,
            cluster_by=config.cluster_by,
            scores=config.scores,
        )

    return make


for _preset in PRESETS:
    register_selector(_preset)(_factory(_preset))
