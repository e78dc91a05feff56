"""Which samples to train on, and which to keep: Adapt-infinity and the baselines behind one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adaptinf.selection import baselines as _baselines  # registers its selectors  # noqa: F401
from adaptinf.selection import methods as _methods  # registers its selectors  # noqa: F401
from adaptinf.selection.adapt_infinity import PRESETS, AdaptInfinity, select
from adaptinf.selection.budget import resolve_budget, water_fill
from adaptinf.selection.ccs import ccs_sample
from adaptinf.selection.cluster import Clustering, cluster
from adaptinf.selection.dedup import DedupResult, dedup
from adaptinf.selection.pool import Needs, Pool, Selection
from adaptinf.selection.pruning import PruneResult, keep_none, prune
from adaptinf.selection.scorer_choice import ScorerChoice, choose_scorer
from adaptinf.selection.scorers import DEFAULT_SCORERS, Scorer
from adaptinf.selection.selector import Selector, make_selector, register_selector, selector_names

if TYPE_CHECKING:
    from adaptinf.selection.estimator import KMeans

__all__ = [
    "DEFAULT_SCORERS",
    "PRESETS",
    "AdaptInfinity",
    "Clustering",
    "DedupResult",
    "KMeans",
    "Needs",
    "Pool",
    "PruneResult",
    "Scorer",
    "ScorerChoice",
    "Selection",
    "Selector",
    "ccs_sample",
    "choose_scorer",
    "cluster",
    "dedup",
    "keep_none",
    "make_selector",
    "prune",
    "register_selector",
    "resolve_budget",
    "select",
    "selector_names",
    "water_fill",
]


def __getattr__(name: str) -> Any:
    """``KMeans`` on first use: it alone needs scikit-learn."""
    if name == "KMeans":
        from adaptinf.selection.estimator import KMeans

        return KMeans
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
