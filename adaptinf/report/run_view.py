"""What the report knows of one run; what its directory does not hold stays empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAGES = ("features", "selection", "training", "routing", "evaluation", "pool")
"""The arrows of one step, in the order in which a step makes them."""


@dataclass(frozen=True)
class Task:
    """One task of the stream; ``number`` is its place in the order of arrival, from 1."""

    number: int
    name: str
    skill: str = ""
    metric: str = ""
    n_train: int | None = None
    n_test: int | None = None


@dataclass(frozen=True)
class Cost:
    """A ``timing.json``; NaN where a number was not measured."""

    seconds: float
    flops: float
    items: int
    items_per_second: float


@dataclass(frozen=True)
class Cluster:
    """One cluster of a step. ``entropies`` are in bits by scorer, NaN where the scorer could not be used."""

    number: int
    size: int
    selected: int
    budget: int | None
    scorer: str
    entropies: Mapping[str, float] = field(default_factory=dict)

    @property
    def runner_up(self) -> str:
        """The best scorer that did not win; empty where no other could be used."""
        others = {name: bits for name, bits in self.entropies.items() if name != self.scorer and not np.isnan(bits)}
        return max(others, key=lambda name: others[name], default="")

    @property
    def margin(self) -> float:
        """Bits of entropy between the winner and the runner-up."""
        return self.entropies.get(self.scorer, np.nan) - self.entropies.get(self.runner_up, np.nan)


@dataclass(frozen=True, eq=False)
class Decisions:
    """``decisions.parquet``: one row a sample of the pool that a step chose from."""

    ids: list[str]
    tasks: list[str]
    cluster: NDArray[np.int64]
    scorer: list[str]
    selected: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PointMap:
    """``map.parquet``: a point in the plane for each sample."""

    ids: list[str]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """A sample as a reader sees it."""

    id: str
    prompt: str
    answer: str
    picture: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Exhibit:
    """One sample of the gallery; ``duplicate`` is the sample that made a dropped one redundant, None where unknown."""

    record: Record
    task: str
    decision: str
    cluster: int | None
    scorer: str
    score: float
    reason: str
    duplicate: Record | None
    max_similarity: float


@dataclass(frozen=True)
class Step:
    """One folder of ``steps/``: step 0 is the evaluation of the untrained model.

    ``elbow`` holds the cluster counts that were tried with their inertia, where the count was not given.
    """

    number: int
    label: str
    task: Task | None
    stages: frozenset[str]
    costs: Mapping[str, Cost]
    scores: Mapping[str, float]
    decisions: Decisions | None
    clusters: tuple[Cluster, ...]
    elbow: tuple[tuple[int, float], ...]
    points: PointMap | None
    kept_by_task: Mapping[str, int] | None
    gallery: tuple[Exhibit, ...]
    formulas: Mapping[str, str]
    counters: Mapping[str, Any]
    dropped: Mapping[str, int]

    @property
    def n_pool(self) -> int | None:
        """Samples that the step chose from."""
        return len(self.decisions.ids) if self.decisions else None

    @property
    def n_selected(self) -> int | None:
        """Samples that the step trained on."""
        return int(self.decisions.selected.sum()) if self.decisions else None

    @property
    def n_kept(self) -> int | None:
        """Samples left in the pool after pruning."""
        return sum(self.kept_by_task.values()) if self.kept_by_task is not None else None

    @cached_property
    def pool_by_task(self) -> Counter[str]:
        """Samples that the step chose from; one whose features were dropped has no task there."""
        return Counter(task for task in self.decisions.tasks if task) if self.decisions else Counter()

    @cached_property
    def selected_by_task(self) -> Counter[str]:
        if self.decisions is None:
            return Counter()
        chosen = zip(self.decisions.tasks, self.decisions.selected, strict=True)
        return Counter(task for task, selected in chosen if selected)

    @property
    def scorers(self) -> list[str]:
        """Names of the scorers that the clusters chose from."""
        return list(dict.fromkeys(name for cluster in self.clusters for name in cluster.entropies))


@dataclass(frozen=True, eq=False)
class RunView:
    """One run. ``matrix`` is [rows, tasks] float64: row 0 the base model, row i after step i, NaN where unmeasured.

    ``metrics`` holds the numbers of ``metrics.json`` by name (empty until the run is finished), ``seconds_total`` what
    the run says it took in all, ``routing`` what it says of its routes (empty without), and ``quarantine`` the first
    lines of the quarantine, which has ``n_quarantined``.
    """

    path: Path
    strategy: str
    tasks: tuple[Task, ...]
    steps: tuple[Step, ...]
    finished: bool
    matrix: NDArray[np.float64]
    metrics: Mapping[str, Any]
    routing: Mapping[str, Any]
    seconds_total: float
    config: Mapping[str, Any]
    config_text: str
    seed: int | None
    budget: float | int | None
    versions: Mapping[str, str]
    identity: Mapping[str, Any]
    counters: Mapping[str, Any]
    fingerprint: str
    quarantine: tuple[Mapping[str, str], ...]
    n_quarantined: int

    @property
    def model(self) -> str:
        return str((self.config.get("model") or {}).get("name", ""))

    @property
    def learning_steps(self) -> tuple[Step, ...]:
        """The steps that select and train: all but the base evaluation."""
        return tuple(step for step in self.steps if step.number > 0)
