"""What a selector sees, what it says it reads, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from adaptinf.errors import DataError, DuplicateIdError

_NOT_SCORES = frozenset({"id", "task", "is_new"})


@dataclass(frozen=True)
class Needs:
    """The parts of a pool that a selector reads: nothing else has to be computed (counts always come along)."""

    sketch: bool = False
    hidden: bool = False
    scores: tuple[str, ...] = ()
    direction: bool = False

    def __bool__(self) -> bool:
        """Whether a pass over the model is needed at all."""
        return self.sketch or self.hidden or self.direction or bool(self.scores)


@dataclass(frozen=True, eq=False)
class Pool:
    """The candidates of one step; everything is row-aligned with ``ids``.

    Attributes:
        ids: N distinct strings.
        tasks: the task of each sample.
        is_new: bool [N], whether the sample arrived at this step.
        scores: raw score columns, float64 [N] each (see the capture contract).
        sketch: gradient sketches, float32 [N, k], or None.
        hidden: mean hidden states, float32 [N, d], or None.
        direction: sketches, by the same matrix, of what the optimiser would make of each gradient, float32 [N, k]; None
            also where none has stepped yet.
        n_trained: int64 [N], in how many earlier steps the sample was selected; None where none was.

    Raises:
        DataError: a part is not row-aligned.
        DuplicateIdError: an id occurs twice.
    """

    ids: Sequence[str]
    tasks: Sequence[str]
    is_new: NDArray[np.bool_]
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    sketch: NDArray[np.floating] | None = None
    hidden: NDArray[np.floating] | None = None
    direction: NDArray[np.floating] | None = None
    n_trained: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        parts: dict[str, Any] = {"tasks": self.tasks, "is_new": self.is_new, **self.scores}
        matrices = {"sketch": self.sketch, "hidden": self.hidden, "direction": self.direction}
        parts |= {name: matrix for name, matrix in matrices.items() if matrix is not None}
        if self.n_trained is not None:
            parts["n_trained"] = self.n_trained
        for name, part in parts.items():
            if len(part) != n:
                raise DataError(f"has {len(part)} rows for {n} ids", item=name, remedy="align every part with the ids")
        for name, matrix in matrices.items():
            if matrix is not None and matrix.ndim != 2:
                raise DataError(f"has shape {matrix.shape}", item=name, remedy="give a matrix, one row a sample")
        check_unique(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> Pool:
        """The pool of these rows, in this order."""
        return Pool(
            ids=[self.ids[int(i)] for i in rows],
            tasks=[self.tasks[int(i)] for i in rows],
            is_new=self.is_new[rows],
            scores={name: column[rows] for name, column in self.scores.items()},
            sketch=None if self.sketch is None else self.sketch[rows],
            hidden=None if self.hidden is None else self.hidden[rows],
            direction=None if self.direction is None else self.direction[rows],
            n_trained=None if self.n_trained is None else self.n_trained[rows],
        )

    @classmethod
    def from_table(cls, table: pa.Table, *, sketch: ArrayLike | None = None, hidden: ArrayLike | None = None) -> Pool:
        """A pool from a table with the column ``id``, maybe ``task`` and ``is_new``, and numeric score columns.

        Without ``task`` every sample is of the task "", without ``is_new`` every sample is new. A null score is NaN;
        columns that are not numbers are ignored.

        Raises:
            DataError: there is no column ``id``, an id is null, or a part is not row-aligned.
        """
        ids = ids_of(table)
        names = set(table.column_names)
        return cls(
            ids=ids,
            tasks=[str(task or "") for task in table["task"].to_pylist()] if "task" in names else [""] * len(ids),
            is_new=(
                np.asarray(table["is_new"].to_pylist(), dtype=bool)
                if "is_new" in names
                else np.ones(len(ids), dtype=bool)
            ),
            scores={name: _column(table[name]) for name in table.column_names if _is_score(name, table[name].type)},
            sketch=None if sketch is None else np.asarray(sketch),
            hidden=None if hidden is None else np.asarray(hidden),
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """A decision for every sample of a pool, row-aligned with its ids.

    Attributes:
        selected: bool [N].
        cluster: int32 [N], -1 where the sample is in none.
        scorer: the scorer its cluster chose, "" for none.
        score: float64 [N], the value of that scorer, NaN for none.
        reason: a short readable sentence each.
        summary: JSON-able facts about the whole decision.
    """

    selected: NDArray[np.bool_]
    cluster: NDArray[np.int32]
    scorer: list[str]
    score: NDArray[np.float64]
    reason: list[str]
    summary: dict[str, Any]

    @classmethod
    def unscored(cls, selected: NDArray[np.bool_], reasons: tuple[str, str], summary: dict[str, Any]) -> Selection:
        """A decision without clusters and scores; ``reasons`` are of the samples left out and of those selected."""
        n = len(selected)
        return cls(
            selected=selected,
            cluster=np.full(n, -1, dtype=np.int32),
            scorer=[""] * n,
            score=np.full(n, np.nan),
            reason=np.array(reasons, dtype=object)[selected.astype(np.intp)].tolist(),
            summary=summary,
        )


def check_unique(ids: Sequence[str]) -> None:
    """Raise DuplicateIdError, naming an id that occurs twice."""
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    twice = next(name for name in ids if name in seen or seen.add(name))
    raise DuplicateIdError("occurs more than once", item=twice, remedy="every decision is keyed by id: make ids unique")


def ids_of(table: pa.Table) -> list[str]:
    """The column ``id`` as strings.

    Raises:
        DataError: the column is missing or has a null.
    """
    if "id" not in table.column_names:
        raise DataError(
            "has no column 'id'", item="table", remedy=f"columns are {', '.join(table.column_names) or 'none'}"
        )
    if table["id"].null_count:
        raise DataError("has a null", item="column id", remedy="give every sample an id")
    return [str(name) for name in table["id"].to_pylist()]


def order_by_id(ids: Sequence[str]) -> NDArray[np.int64]:
    """The permutation that sorts the ids: an order that does not depend on how the pool was put together."""
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)


def _is_score(name: str, type_: pa.DataType) -> bool:
    return name not in _NOT_SCORES and (pa.types.is_floating(type_) or pa.types.is_integer(type_))


def _column(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
