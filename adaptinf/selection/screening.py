"""Scores and features of a pool, with whatever is not a finite number dealt with by policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adaptinf.errors import DataError, NonFiniteError
from adaptinf.selection.pool import Pool
from adaptinf.selection.scorers import Scorer

OnNonFinite = Literal["raise", "drop", "zero"]

_CHUNK_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Screened:
    """What may be clustered and scored.

    Attributes:
        usable: bool [N]; False for samples that the policy drops.
        values: scorer values, float64 [N] each, NaN only where the scorer has no meaning for the sample (or dropped).
        features: float [N, k], what is clustered, finite on the usable rows.
        at_fault: for each dropped sample the first thing at fault, "" otherwise.
        counts: samples with something not finite, per scorer and for the features by their name.
    """

    usable: NDArray[np.bool_]
    values: dict[str, NDArray[np.float64]]
    features: NDArray[np.floating]
    at_fault: NDArray[np.object_]
    counts: dict[str, int]


def screen(
    pool: Pool, scorers: Sequence[Scorer], policy: OnNonFinite, clustered: Literal["sketch", "hidden"] = "sketch"
) -> Screened:
    """Evaluate the scorers and apply the policy to every NaN and infinity in them and in what is to be clustered.

    ``raise`` is an error, ``drop`` takes the sample out, ``zero`` puts 0 in the place of the number. A scorer that is
    ``image_only`` is undefined, which is nothing to deal with, for a sample without pictures: where the column
    ``n_images`` is 0, or, without such a column, where ``nll_without_image`` is NaN.

    Raises:
        NonFiniteError: under ``raise``, naming the ids.
        DataError: the pool lacks what is clustered, or a column.
    """
    features = getattr(pool, clustered)
    if features is None:
        raise DataError(f"has no {clustered}", item="pool", remedy=f"extract features with {clustered}")
    undefined = without_pictures(pool.scores, len(pool))
    values, bad = {}, {}
    for scorer in scorers:
        meaningless = undefined if scorer.image_only else np.zeros(len(pool), dtype=bool)
        values[scorer.name] = np.where(meaningless, np.nan, scorer.values(pool.scores))
        bad[scorer.name] = ~np.isfinite(values[scorer.name]) & ~meaningless
    bad[clustered] = ~_finite_rows(features)
    counts = {name: int(mask.sum()) for name, mask in bad.items() if mask.any()}
    usable, at_fault = np.ones(len(pool), dtype=bool), np.full(len(pool), "", dtype=object)
    if counts and policy == "raise":
        name = next(iter(counts))
        at = np.flatnonzero(bad[name])
        raise NonFiniteError(
            f"{len(at)} of {len(pool)} samples have a {name} that is not finite",
            item=", ".join([pool.ids[int(i)] for i in at[:5]] + ["..."] * (len(at) > 5)),
            remedy="look at these samples, or set the policy for non-finite numbers to drop or zero",
        )
    if policy == "drop":
        for name in counts:
            at_fault[bad[name] & usable] = name
            usable &= ~bad[name]
    elif counts:
        for name in values.keys() & counts.keys():
            values[name] = np.where(bad[name], 0.0, values[name])
        if clustered in counts:
            features = np.where(np.isfinite(features), features, 0)
    return Screened(usable, values, features, at_fault, counts)


def without_pictures(columns: Mapping[str, NDArray[np.float64]], n: int) -> NDArray[np.bool_]:
    """Where Image Grounding has no meaning."""
    if "n_images" in columns:
        return np.asarray(columns["n_images"]) == 0
    return np.isnan(columns["nll_without_image"]) if "nll_without_image" in columns else np.zeros(n, dtype=bool)


def _finite_rows(matrix: NDArray[np.floating]) -> NDArray[np.bool_]:
    """A bool a row; in chunks, so that no second matrix is made."""
    chunks = [np.isfinite(matrix[i : i + _CHUNK_ROWS]).all(axis=1) for i in range(0, len(matrix), _CHUNK_ROWS)]
    return np.concatenate(chunks)
