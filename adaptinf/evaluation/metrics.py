"""Task metrics by name: one number in [0, 1] for each pair of a prediction and what it should have been.

The score of a task is the mean over its samples. Where a sample has several references, the best one counts, except
for BLEU and SARI, which are defined over all of them.
"""

from __future__ import annotations

import difflib
import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptinf.errors import ConfigError, DataError, MissingDependencyError
from adaptinf.evaluation.boxes import Box, iou, parse_box
from adaptinf.evaluation.sari import sari
from adaptinf.evaluation.text import choice_letter, final_number, normalise, space_out, tokens, words

References = str | Sequence[str]
Scorer = Callable[[str, Sequence[str], str], float]

PACKAGES = {"rouge_score": "rouge-score", "sacrebleu": "sacrebleu", "regex": "regex"}
"""Modules that metrics are computed with, and what pip calls them."""


@dataclass(frozen=True)
class Metric:
    """``score(prediction, references, source)`` in [0, 1]; ``parse(prediction)`` is None where it holds no answer."""

    name: str
    score: Scorer
    parse: Callable[[str], Any]
    needs_source: bool


_METRICS: dict[str, Metric] = {}


def _not_blank(text: str) -> str | None:
    return text.strip() or None


def register_metric(
    name: str, *, parse: Callable[[str], Any] = _not_blank, needs_source: bool = False
) -> Callable[[Scorer], Scorer]:
    """Decorator: make ``score(prediction, references, source) -> float`` known as ``name``.

    ``parse(prediction)`` returns None for a prediction without an answer in the form the metric needs (default: a blank
    one). Such predictions are counted, and the metric should give them 0. ``source`` is "" unless ``needs_source``.
    """

    def register(function: Scorer) -> Scorer:
        _METRICS[name] = Metric(name, function, parse, needs_source)
        return function

    return register


def metric_names() -> list[str]:
    return sorted(_METRICS)


def get_metric(name: str) -> Metric:
    """Raises ConfigError, naming the nearest one, if there is no such metric."""
    if name not in _METRICS:
        near = difflib.get_close_matches(name, _METRICS, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(metric_names())}"
        raise ConfigError("is no metric", item=name, remedy=remedy)
    return _METRICS[name]


def score(
    metric: str, predictions: Sequence[str], references: Sequence[References], *, sources: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """Scores [N] in [0, 1] of N predictions; a reference is a text or several accepted texts.

    ============= ====================================================================================================
    exact_match   1 if equal after stripping white space
    accuracy      1 if equal in normal form (:func:`adaptinf.evaluation.text.normalise`): case, punctuation, articles
    contains      1 if the words of the reference, in normal form, stand one after another in the prediction
    choice        1 if the option letter is the same (:func:`adaptinf.evaluation.text.choice_letter`)
    number        1 if the last number is the same (GSM8K): "... so 6 + 36 = 42." and "#### 42"
    token_f1      F1 of the bags of words in normal form (SQuAD)
    iou           intersection over union of the boxes ``[x1, y1, x2, y2]``; 0 for a prediction without a valid box
    iou@0.5       1 if that is above 0.5 (RefCOCO). The released Adapt-inf code leaves unparsable predictions out of the
                  mean; here they count as 0
    rouge_1       F1 of the words (rouge-score, no stemming); every script counts
    rouge_l       F1 of the longest common subsequence of words (rouge-score, no stemming)
    bleu          sentence BLEU (sacrebleu: 13a, exponential smoothing, effective order) / 100
    sari          :func:`adaptinf.evaluation.sari.sari` over lower-case 13a tokens; needs ``sources``
    ============= ====================================================================================================

    Scripts that write no spaces (Han, Kana, Thai, Lao, Khmer, Burmese, Tibetan) are compared by character.

    Raises:
        ConfigError: no such metric.
        DataError: lengths differ, a reference is missing or holds no box or letter, or sources are missing.
        MissingDependencyError: the library of this metric is not installed.
    """
    chosen = get_metric(metric)
    if len(predictions) != len(references) or (sources is not None and len(sources) != len(predictions)):
        counts = f"{len(predictions)} predictions, {len(references)} references"
        counts += "" if sources is None else f", {len(sources)} sources"
        raise DataError(f"got {counts}", item=metric, remedy="give one of each for every sample")
    if chosen.needs_source and sources is None:
        raise DataError("needs the text that was rewritten", item=metric, remedy="pass sources=")
    given = sources if chosen.needs_source and sources is not None else [""] * len(predictions)
    values = np.empty(len(predictions))
    for i, (prediction, reference, source) in enumerate(zip(predictions, references, given, strict=True)):
        accepted = [reference] if isinstance(reference, str) else list(reference)
        if not accepted:
            raise DataError("has no reference", item=f"sample {i}", remedy="give at least one accepted text")
        values[i] = chosen.score(prediction, accepted, source)
    return values


def corpus_bleu(predictions: Sequence[str], references: Sequence[References]) -> float:
    """BLEU over all n-grams of a corpus, in [0, 1]; not the mean of the sentences' scores."""
    lists = [[reference] if isinstance(reference, str) else list(reference) for reference in references]
    if len(predictions) != len(lists) or not lists or not all(lists):
        raise DataError(
            f"got {len(predictions)} predictions, {len(lists)} references",
            item="bleu",
            remedy="give a prediction and at least one reference for each sample",
        )
    most = max(map(len, lists))
    streams = [[space_out(texts[k]) if k < len(texts) else None for texts in lists] for k in range(most)]
    return min(1.0, _bleu(False).corpus_score([space_out(text) for text in predictions], streams).score / 100)


def metric_versions() -> dict[str, str]:
    """Versions of the libraries that metrics are computed with."""
    return {package: _version(package) for package in PACKAGES.values()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


Pair = Callable[[str, str], float]


def _of_one_reference(name: str, *, parse: Callable[[str], Any] = _not_blank) -> Callable[[Pair], Pair]:
    """Register ``compare(prediction, reference)``; of several references the best counts."""

    def register(compare: Pair) -> Pair:
        register_metric(name, parse=parse)(lambda given, references, _: max(compare(given, one) for one in references))
        return compare

    return register


@_of_one_reference("exact_match")
def _exact_match(prediction: str, reference: str) -> float:
    return float(prediction.strip() == reference.strip())


@_of_one_reference("accuracy")
def _accuracy(prediction: str, reference: str) -> float:
    return float(normalise(prediction) == normalise(reference))


@_of_one_reference("contains")
def _contains(prediction: str, reference: str) -> float:
    needle, hay = tokens(normalise(reference)), tokens(normalise(prediction))
    return float(any(hay[i : i + len(needle)] == needle for i in range(len(hay) - len(needle) + 1)))


@_of_one_reference("choice", parse=choice_letter)
def _choice(prediction: str, reference: str) -> float:
    return float(choice_letter(prediction) == _readable(choice_letter(reference), reference, "choice", "option letter"))


@_of_one_reference("number", parse=final_number)
def _number(prediction: str, reference: str) -> float:
    return float(final_number(prediction) == _readable(final_number(reference), reference, "number", "number"))


@_of_one_reference("token_f1")
def _token_f1(prediction: str, reference: str) -> float:
    has, wanted = Counter(tokens(normalise(prediction))), Counter(tokens(normalise(reference)))
    if not has or not wanted:
        return float(has == wanted)
    return 2 * (has & wanted).total() / (has.total() + wanted.total())


@_of_one_reference("iou", parse=parse_box)
def _iou(prediction: str, reference: str) -> float:
    wanted: Box = _readable(parse_box(reference), reference, "iou", "box [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
    box = parse_box(prediction)
    return 0.0 if box is None else iou(box, wanted)


@_of_one_reference("iou@0.5", parse=parse_box)
def _iou_above_half(prediction: str, reference: str) -> float:
    return float(_iou(prediction, reference) > 0.5)


@_of_one_reference("rouge_1")
def _rouge_1(prediction: str, reference: str) -> float:
    return _rouge("rouge1", prediction, reference)


@_of_one_reference("rouge_l")
def _rouge_l(prediction: str, reference: str) -> float:
    return _rouge("rougeL", prediction, reference)


@register_metric("bleu")
def _sentence_bleu(prediction: str, references: Sequence[str], source: str) -> float:
    found = _bleu(True).sentence_score(space_out(prediction), [space_out(reference) for reference in references])
    return min(1.0, found.score / 100)


@register_metric("sari", needs_source=True)
def _sari(prediction: str, references: Sequence[str], source: str) -> float:
    split = _tokenizer_13a()
    return sari(split(source), split(prediction), [split(reference) for reference in references])


def _readable(parsed: Any, reference: str, metric: str, what: str) -> Any:
    if parsed is None:
        raise DataError(f"the reference {reference!r} holds no {what}", item=metric, remedy="choose another metric")
    return parsed


def _rouge(kind: str, prediction: str, reference: str) -> float:
    return _rouge_scorer(kind).score(reference, prediction)[kind].fmeasure


class _Words:
    """The tokenizer protocol of rouge-score."""

    tokenize = staticmethod(words)


@cache
def _rouge_scorer(kind: str) -> Any:
    return _require("rouge_score", "rouge_scorer").RougeScorer([kind], tokenizer=_Words())


@cache
def _bleu(sentence: bool) -> Any:
    return _require("sacrebleu", "metrics").BLEU(effective_order=sentence)


@cache
def _tokenizer_13a() -> Callable[[str], list[str]]:
    tokenize = _require("sacrebleu", "tokenizers.tokenizer_13a").Tokenizer13a()
    return lambda text: tokenize(space_out(text).lower()).split()


def _require(package: str, module: str) -> Any:
    try:
        return importlib.import_module(f"{package}.{module}")
    except ImportError as error:
        name = PACKAGES[package]
        raise MissingDependencyError(
            f"this metric is computed with it, and it cannot be imported ({error})",
            item=name,
            remedy=f"python -m pip install {name}",
        ) from error
