"""The tables of a step: every decision and every score by sample id, the cluster map and the gallery of the report."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa

from adaptinf.capture import Features
from adaptinf.data import Sample, load_image
from adaptinf.selection import Pool, PruneResult, Selection
from adaptinf.store import read_table

PICTURE_HEIGHT = 96
MAP_POINTS = 20_000


def decisions_table(pool: Pool, selection: Selection, features: Features | None) -> pa.Table:
    """One row a sample of the pool, with the samples that lost their features last (cluster -1, not selected)."""
    n = len(pool.ids)
    lost = features.dropped if features is not None else []
    scores = {name: np.concatenate([v, np.full(len(lost), np.nan)]) for name, v in sorted(pool.scores.items())}
    none = np.full(len(lost), np.nan)
    return pa.table(
        {
            "id": pa.array([*pool.ids, *(id for id, _ in lost)], pa.string()),
            "task": pa.array([*pool.tasks, *("" for _ in lost)], pa.string()),
            "is_new": pa.array(np.concatenate([pool.is_new, np.zeros(len(lost), bool)])),
            "cluster": pa.array(np.concatenate([selection.cluster, np.full(len(lost), -1)]), pa.int32()),
            "scorer": pa.array([*selection.scorer, *("" for _ in lost)], pa.string()),
            "score": pa.array(np.concatenate([selection.score, none]), pa.float64()),
            "selected": pa.array(np.concatenate([selection.selected, np.zeros(len(lost), bool)])),
            "dropped": pa.array(np.arange(n + len(lost)) >= n),
            "reason": pa.array([*selection.reason, *(f"dropped: {why}" for _, why in lost)], pa.string()),
            **{name: pa.array(values, pa.float64()) for name, values in scores.items()},
        }
    )


def read_selection(directory: Path) -> list[str]:
    """The ids that a selection artefact chose, in pool order."""
    table = read_table(directory / "decisions.parquet")
    return table.filter(table["selected"])["id"].to_pylist()


def pool_table(decisions: pa.Table, pruned: PruneResult | None) -> pa.Table:
    """The decisions with what pruning did: ``kept``, ``duplicate_of`` (an id or null) and ``max_similarity``.

    ``pruned`` covers the rows that were not dropped; None keeps them all.
    """
    dropped = decisions["dropped"].to_numpy()
    kept, similarity = ~dropped, np.full(len(dropped), np.nan)
    duplicate_of: list[str | None] = [None] * len(dropped)
    reason = decisions["reason"].to_pylist()
    if pruned is not None:
        ids = decisions["id"].to_pylist()
        for to, row in enumerate(np.flatnonzero(~dropped)):
            kept[row], similarity[row] = pruned.kept[to], pruned.max_similarity[to]
            reason[row] = f"{reason[row]}; {pruned.reason[to]}"
            if pruned.duplicate_of[to] >= 0:
                duplicate_of[row] = ids[pruned.duplicate_of[to]]
    place = decisions.column_names.index("selected") + 1
    table = decisions.set_column(decisions.column_names.index("reason"), "reason", pa.array(reason, pa.string()))
    table = table.add_column(place, "kept", pa.array(kept))
    table = table.add_column(place + 2, "duplicate_of", pa.array(duplicate_of, pa.string()))
    return table.add_column(place + 3, "max_similarity", pa.array(similarity, pa.float64()))


def cluster_map(features: Features) -> pa.Table:
    """``id, x, y``: the two leading principal components of the L2-normalised sketches, at most MAP_POINTS rows.

    The signs are fixed by the largest loading, so that the map is the same in every run.
    """
    assert features.sketch is not None
    stride = -(-len(features) // MAP_POINTS)
    ids, rows = features.ids[::stride], features.sketch[::stride].astype(np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    rows -= rows.mean(0)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    axes = vectors[:, [-1, -2]] if rows.shape[1] > 1 else np.hstack([vectors, np.zeros_like(vectors)])
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]] + 1e-300)
    where = rows @ axes
    return pa.table({"id": pa.array(ids, pa.string()), "x": where[:, 0], "y": where[:, 1]})


def gallery_table(pool: pa.Table, samples: Mapping[str, Sample], per_decision: int, seed: int) -> pa.Table:
    """A few samples of each decision (selected, not selected, kept, dropped) with prompt, answer and picture."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    selected, kept = pool["selected"].to_numpy(), pool["kept"].to_numpy()
    for decision, mask in (("selected", selected), ("not selected", ~selected), ("kept", kept), ("dropped", ~kept)):
        candidates = np.flatnonzero(mask)
        chosen = np.sort(rng.choice(candidates, min(per_decision, len(candidates)), replace=False))
        for row in pool.take(pa.array(chosen)).to_pylist():
            sample = samples[row["id"]]
            rows.append(
                {
                    "id": sample.id,
                    "task": sample.task,
                    "decision": decision,
                    **{
                        name: row[name]
                        for name in ("cluster", "scorer", "score", "reason", "duplicate_of", "max_similarity")
                    },
                    "prompt": sample.prompt,
                    "answer": sample.answer,
                    "picture": _thumbnail(sample),
                    "duplicate_prompt": samples[row["duplicate_of"]].prompt if row["duplicate_of"] else None,
                    "duplicate_answer": samples[row["duplicate_of"]].answer if row["duplicate_of"] else None,
                    "duplicate_picture": _thumbnail(samples[row["duplicate_of"]]) if row["duplicate_of"] else None,
                }
            )
    return pa.Table.from_pylist(rows, schema=_GALLERY)


_GALLERY = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("decision", pa.string()),
        ("cluster", pa.int32()),
        ("scorer", pa.string()),
        ("score", pa.float64()),
        ("reason", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("picture", pa.binary()),
        ("duplicate_of", pa.string()),
        ("max_similarity", pa.float64()),
        ("duplicate_prompt", pa.string()),
        ("duplicate_answer", pa.string()),
        ("duplicate_picture", pa.binary()),
    ]
)


def _thumbnail(sample: Sample) -> bytes | None:
    """The sample's pictures side by side (at most four), PICTURE_HEIGHT high, as PNG."""
    if not sample.images:
        return None
    pictures = [load_image(image) for image in sample.images[:4]]
    pictures = [p.resize((max(1, round(p.width * PICTURE_HEIGHT / p.height)), PICTURE_HEIGHT)) for p in pictures]
    strip = PIL.Image.new("RGB", (sum(p.width for p in pictures) + 4 * (len(pictures) - 1), PICTURE_HEIGHT), "white")
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + 4
    buffer = io.BytesIO()
    strip.save(buffer, "PNG")
    return buffer.getvalue()
