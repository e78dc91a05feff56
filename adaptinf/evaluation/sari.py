"""SARI, the metric of text simplification (Xu et al. 2016, TACL 4, 401-415)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

ORDERS = (1, 2, 3, 4)

Words = Sequence[str]
Grams = Counter[tuple[str, ...]]


def sari(source: Words, prediction: Words, references: Sequence[Words]) -> float:
    """How well words were kept, deleted and added on the way from the source to the prediction, in [0, 1].

    With I, O, R the n-gram counts of source, prediction and all r references together, I and O times r, and n-gram
    orders 1 to 4, the mean over the orders of (F1_keep + P_delete + F1_add) / 3:

    - keep: the n-grams of I & O. P: mean over their types of the share that is also in R; R: |I & O & R| / |I & R|;
    - delete: the n-grams of I - O. P: mean over their types of the share that is left in I - O - R (as published
      implementations have it; for a repeated n-gram it can be less than the paper's I - max(O, R));
    - add: the types of O not in I. P: the share that is in R; R: the same number over the types of R not in I.

    0/0 counts as 1 (nothing was to be done, and nothing was done), and keep's recall is over counts: the conventions
    of tensor2tensor and of Hugging Face ``evaluate``, whose 0 to 100 is this times 100.
    """
    scores = [_order(source, prediction, references, n) for n in ORDERS]
    return sum(scores) / len(scores)


def _order(source: Words, prediction: Words, references: Sequence[Words], n: int) -> float:
    wanted: Grams = Counter()
    for reference in references:
        wanted.update(_grams(reference, n))
    had = _times(_grams(source, n), len(references))
    has = _times(_grams(prediction, n), len(references))

    kept = had & has
    kept_well = kept & wanted
    keep = _f1(_mean_share(kept_well, kept), _ratio(kept_well.total(), (had & wanted).total()))

    deleted = had - has
    delete = _mean_share(deleted - wanted, deleted)

    added, to_add = set(has) - set(had), set(wanted) - set(had)
    add = _f1(_ratio(len(added & to_add), len(added)), _ratio(len(added & to_add), len(to_add)))
    return (keep + delete + add) / 3


def _grams(words: Words, n: int) -> Grams:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _times(grams: Grams, factor: int) -> Grams:
    return Counter({gram: count * factor for gram, count in grams.items()})


def _mean_share(part: Grams, whole: Grams) -> float:
    """Mean over the types of ``whole`` of the share that is in ``part``."""
    return _ratio(sum(part[gram] / count for gram, count in whole.items()), len(whole))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
