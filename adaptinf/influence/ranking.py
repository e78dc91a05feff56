"""Which samples of a pool help most with a set of query samples, by the gradients of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from adaptinf.capture import Features
from adaptinf.errors import ConfigError, DataError, IdentityError, NonFiniteError
from adaptinf.influence.ihvp import datainf, sketched
from adaptinf.selection.cluster import normalise

Method = Literal["less", "sketched", "datainf"]
METHODS: tuple[Method, ...] = ("less", "sketched", "datainf")


@dataclass(frozen=True)
class Ranking:
    """The pool, most helpful first; equal scores in the order of ids. ``score`` float64 [N]; ``task`` names, of each
    sample, the query's task that its score is for."""

    ids: list[str]
    score: NDArray[np.float64]
    task: list[str]

    def table(self) -> pa.Table:
        """``rank`` (from 0), ``id``, ``score`` and ``task``."""
        columns = {
            "rank": pa.array(range(len(self.ids)), pa.int64()),
            "id": pa.array(self.ids, pa.string()),
            "score": pa.array(self.score, pa.float64()),
            "task": pa.array(self.task, pa.string()),
        }
        return pa.table(columns)


def targeted_influence(
    pool: Features, query: Features, tasks: Sequence[str], *, method: Method = "less", relative_damping: float = 1.0
) -> Ranking:
    """``score_i = max_t mean_{v in V_t} <u_i, z_v>`` over the tasks t of the query; ``tasks`` names that of each row.

    ``less``: u and z are unit rows, u of the directions that Adam would take from the pool's gradients where the pool
    was measured with its moments, else of the gradients' sketches; z of the query's sketches. A sample's length does
    not count, so that short answers with their large gradients do not win.

    ``sketched`` and ``datainf``: ``<z_i, (H + damping I)^-1 z_v>`` of the plain sketches: the first-order fall of the
    query's mean loss where sample i weighs more, with H the pool's empirical Fisher matrix, once in the eigenbasis of
    the sketches and once by DataInf's closed form, parameter by parameter where the sketches are (``per_parameter``).
    ``relative_damping`` is theirs alone (:mod:`adaptinf.influence.ihvp`); in sketches of some thousand columns 1 agrees
    better with leaving one out than 0.1 (docs/influence.md).

    Raises DataError where there is no sketch or no row, IdentityError where the two were not measured alike,
    NonFiniteError naming a sample, ConfigError for anything else.

    Source: Xia et al. 2024 (LESS, ICML); princeton-nlp/LESS, ``less/data_selection/matching.py``; Kwon et al. 2024
    (DataInf).
    """
    if method not in METHODS:
        raise ConfigError("is no method", item=f"method={method!r}", remedy=f"choose from {', '.join(METHODS)}")
    if len(tasks) != len(query):
        raise ConfigError(f"{len(tasks)} names for {len(query)} query samples", item="tasks", remedy="one a row")
    _check_alike(pool, query)
    rows, queries = _sketch(pool, "pool"), _sketch(query, "query")
    if method == "less":
        queries = normalise(queries)[0]
        rows = normalise(rows if pool.direction is None else _finite(pool.direction, pool.ids, "pool"))[0]
    names = sorted(set(tasks))
    of_task = np.array([names.index(task) for task in tasks])
    means = np.stack([queries[of_task == t].mean(axis=0, dtype=np.float64) for t in range(len(names))])
    if method != "less":
        sketches, targets = torch.from_numpy(rows), torch.from_numpy(means)
        if method == "sketched":
            solved = sketched(sketches, targets, relative_damping=relative_damping)
        else:
            parts = len(pool.identity["targets"]) if pool.identity["per_parameter"] else 1
            layers = [rows.shape[1] // parts] * parts
            solved = datainf(sketches, targets, layers=layers, relative_damping=relative_damping)
        means = solved.numpy()
    influence = rows.astype(np.float64) @ means.T
    nearest = influence.argmax(axis=1)
    score = influence[np.arange(len(rows)), nearest]
    order = sorted(range(len(rows)), key=lambda i: (-score[i], pool.ids[i]))
    return Ranking([pool.ids[i] for i in order], score[order], [names[nearest[i]] for i in order])


def _sketch(features: Features, name: str) -> NDArray[np.float32]:
    if features.sketch is None or not len(features):
        raise DataError("has no gradient sketches", item=name, remedy="extract its features with a sketch")
    return _finite(features.sketch, features.ids, name)


def _finite(rows: NDArray[np.float32], ids: Sequence[str], name: str) -> NDArray[np.float32]:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise NonFiniteError(
            f"of the {name} has a gradient that is not finite", item=ids[int(bad[0])], remedy="leave the sample out"
        )
    return rows


def _check_alike(pool: Features, query: Features) -> None:
    """But for Adam's moments, which only the pool is measured with."""
    first, second = ({**one.identity, "preconditioners": None} for one in (pool, query))
    keys = sorted(key for key in {*first, *second} if first.get(key) != second.get(key))
    if keys:
        raise IdentityError(
            f"pool and query differ in {', '.join(keys)}", remedy="extract both with one model and configuration"
        )
