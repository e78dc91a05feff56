"""What one pass over a model yields: sketches, hidden means and scores, row-aligned with sample ids."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adaptinf.errors import IdentityError
from adaptinf.store import read_json, read_table, read_tensors, write_json, write_table, write_tensors


@dataclass(frozen=True)
class Features:
    """Row ``i`` of every array belongs to ``ids[i]``.

    ``sketch`` float32 [N, k]; ``direction`` float32 [N, k], the same sketch of the preconditioned gradients;
    ``hidden`` float32 [N, d]; ``scores`` raw columns, float64 [N] each (their formulas are
    in docs/architecture.md). ``identity`` names what produced the numbers; features of unlike identity never mix.
    ``dropped`` lists the samples left out, as (id, reason); ``zeroed`` the samples whose non-finite numbers were set to
    0; ``flops`` is what the passes cost by the counting model.
    """

    ids: list[str]
    sketch: np.ndarray | None
    hidden: np.ndarray | None
    scores: dict[str, np.ndarray]
    identity: dict[str, Any]
    dropped: list[tuple[str, str]] = field(default_factory=list)
    zeroed: list[str] = field(default_factory=list)
    flops: float = 0.0
    direction: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, directory: Path) -> None:
        """``features.safetensors``, ``scores.parquet``, ``dropped.parquet`` and ``identity.json``."""
        matrices = {"sketch": self.sketch, "direction": self.direction, "hidden": self.hidden}
        tensors = {name: matrix for name, matrix in matrices.items() if matrix is not None}
        write_tensors(directory / "features.safetensors", tensors)
        write_table(directory / "scores.parquet", self.table())
        ids, reasons = [list(column) for column in zip(*self.dropped, strict=True)] if self.dropped else ([], [])
        write_table(
            directory / "dropped.parquet",
            pa.table({"id": pa.array(ids, pa.string()), "reason": pa.array(reasons, pa.string())}),
        )
        write_json(directory / "identity.json", {"identity": self.identity, "zeroed": self.zeroed, "flops": self.flops})

    @classmethod
    def load(cls, directory: Path) -> Features:
        tensors = read_tensors(directory / "features.safetensors")
        table = read_table(directory / "scores.parquet")
        about = read_json(directory / "identity.json")
        dropped = read_table(directory / "dropped.parquet").to_pylist()
        return cls(
            ids=table["id"].to_pylist(),
            sketch=tensors.get("sketch"),
            hidden=tensors.get("hidden"),
            scores={name: table[name].to_numpy() for name in table.column_names if name != "id"},
            identity=about["identity"],
            dropped=[(row["id"], row["reason"]) for row in dropped],
            zeroed=about["zeroed"],
            flops=about["flops"],
            direction=tensors.get("direction"),
        )

    def table(self) -> pa.Table:
        """``id`` and one float64 column a raw score."""
        return pa.table(
            {"id": pa.array(self.ids, pa.string()), **{k: pa.array(v, pa.float64()) for k, v in self.scores.items()}}
        )

    def concat(self, other: Features) -> Features:
        """These rows, then the other's. Raises IdentityError when they were not produced alike."""
        if self.identity != other.identity:
            keys = sorted(k for k in {*self.identity, *other.identity} if self.identity.get(k) != other.identity.get(k))
            raise IdentityError(
                f"features differ in {', '.join(keys)}", remedy="extract both with one model and configuration"
            )
        return self._joined(other, self.identity)

    def take(self, ids: Collection[str]) -> Features:
        """What there is of these samples, in this order of rows; it cost nothing."""
        rows = [row for row, id in enumerate(self.ids) if id in ids]
        of = lambda part: None if part is None else part[rows]  # noqa: E731
        return Features(
            ids=[self.ids[row] for row in rows],
            sketch=of(self.sketch),
            hidden=of(self.hidden),
            scores={name: column[rows] for name, column in self.scores.items()},
            identity=self.identity,
            dropped=[(id, reason) for id, reason in self.dropped if id in ids],
            zeroed=[id for id in self.zeroed if id in ids],
            direction=of(self.direction),
        )

    def then(self, other: Features) -> Features:
        """These rows, then those of samples that arrived later and were measured by the model of that time.

        The identity is the other's, with the weights and adapter of each time under ``arrivals``. Raises IdentityError
        when anything else differs.
        """
        first, second = ({**one.identity, "model": dict(one.identity["model"])} for one in (self, other))
        earlier = first.pop("arrivals", None)
        times = [{name: one["model"].pop(name) for name in ("weights", "adapter")} for one in (first, second)]
        if first != second:
            keys = sorted(key for key in {*first, *second} if first.get(key) != second.get(key))
            raise IdentityError(
                f"features differ in {', '.join(keys)}", remedy="extract both with one kind of model and configuration"
            )
        arrivals = [*(earlier or times[:1]), times[1]]
        return self._joined(other, {**other.identity, "arrivals": arrivals})

    def _joined(self, other: Features, identity: dict[str, Any]) -> Features:
        join = lambda a, b: None if a is None else np.concatenate([a, b])  # noqa: E731
        return Features(
            ids=self.ids + other.ids,
            sketch=join(self.sketch, other.sketch),
            hidden=join(self.hidden, other.hidden),
            scores={name: np.concatenate([self.scores[name], other.scores[name]]) for name in self.scores},
            identity=identity,
            dropped=self.dropped + other.dropped,
            zeroed=self.zeroed + other.zeroed,
            flops=self.flops + other.flops,
            direction=join(self.direction, other.direction),
        )
