from __future__ import annotations

import gzip
import itertools
import json
import random
import sys
from functools import lru_cache

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from adaptinf.data import BUNDLE
from adaptinf.errors import ConfigError, DataError, MissingDependencyError
from adaptinf.evaluation import corpus_bleu, metric_names, metric_versions, metrics, register_metric, score

CASES = [
    # metric, prediction, reference, score
    ("exact_match", " yes\n", "yes", 1),
    ("exact_match", "Yes", "yes", 0),
    ("exact_match", "yes.", "yes", 0),
    ("exact_match", "", "", 1),
    ("accuracy", "Yes.", "yes", 1),
    ("accuracy", "(A)", "a", 1),
    ("accuracy", "A", "B", 0),
    ("accuracy", "A", "the", 0),
    ("accuracy", "The  Black-bird!", "black bird", 1),
    ("accuracy", "3.5", "35", 0),
    ("accuracy", "-5", "5", 0),
    ("accuracy", "1,200", "1200", 1),
    ("accuracy", "", "yes", 0),
    ("accuracy", "!", "?", 0),
    ("contains", "It is a Black bird.", "black bird", 1),
    ("contains", "It is a blackbird.", "black bird", 0),
    ("contains", "bird black", "black bird", 0),
    ("contains", "cataract", "cat", 0),
    ("contains", "这是黑鸟。", "黑鸟", 1),
    ("contains", "", "cat", 0),
    ("choice", "The answer is (B).", "(B)", 1),
    ("choice", "b", "(B)", 1),
    ("choice", "(C)", "(B)", 0),
    ("choice", "red", "(B)", 0),
    ("number", "6 + 36 = <<6+36=42>>42 eggs.\n#### 42", "#### 42", 1),
    ("number", "42 eggs", "42.0", 1),
    ("number", "1,042", "1042", 1),
    ("number", "so 41 is the answer", "#### 42", 0),
    ("number", "many", "42", 0),
    ("token_f1", "the black bird", "a black cat bird", 2 * 2 / 5),
    ("token_f1", "bird bird", "bird", 2 * 1 / 3),
    ("token_f1", "黑鸟", "黑猫", 0.5),
    ("token_f1", "", "bird", 0),
    ("token_f1", "", "", 1),
    ("rouge_1", "bird black", "black bird", 1),
    ("rouge_l", "bird black", "black bird", 0.5),
    ("rouge_l", "the cat sat", "the cat sat on the mat", 2 * 1 * 0.5 / 1.5),
    ("rouge_l", "", "bird", 0),
    ("rouge_l", "чёрный дрозд", "Чёрный дрозд.", 1),
    ("rouge_l", "นก", "นกดำ", 2 * 2 / 6),
    ("bleu", "", "a bird", 0),
    ("bleu", "a small black bird sits", "a small black bird sits", 1),
    ("bleu", "bird", "bird", 1),
    ("bleu", "一只黑鸟站着", "一只黑鸟站着", 1),
]


@pytest.mark.parametrize(("metric", "prediction", "reference", "expected"), CASES)
def test_by_hand(metric, prediction, reference, expected):
    found = score(metric, [prediction], [reference])
    assert found.dtype == np.float64
    assert found == pytest.approx([expected])


def lcs(a, b):
    """Longest common subsequence by plain recursion."""

    @lru_cache(None)
    def length(i, j):
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + length(i + 1, j + 1)
        return max(length(i + 1, j), length(i, j + 1))

    return length(0, 0)


texts = st.lists(st.sampled_from(["big", "bird", "Cat", "дрозд", "鸟", "2"]), max_size=8)


@given(texts, texts)
def test_overlaps_against_plain_counting(a, b):
    prediction, reference = " ".join(a), " ".join(b)
    a, b = [word.lower() for word in a], [word.lower() for word in b]
    in_order = 2 * lcs(tuple(a), tuple(b)) / max(len(a) + len(b), 1)
    in_any_order = 2 * sum(min(a.count(word), b.count(word)) for word in set(a)) / max(len(a) + len(b), 1)
    assert score("rouge_l", [prediction], [reference])[0] == pytest.approx(in_order)
    assert score("rouge_1", [prediction], [reference])[0] == pytest.approx(in_any_order)
    assert score("token_f1", [prediction], [reference])[0] == pytest.approx(in_any_order if a or b else 1)


ascii_texts = st.text(alphabet=st.characters(codec="ascii"), max_size=60)


@given(ascii_texts, ascii_texts)
def test_english_is_scored_as_by_the_libraries(a, b):
    assert score("rouge_l", [a], [b])[0] == RougeScorer(["rougeL"]).score(b, a)["rougeL"].fmeasure
    assert score("bleu", [a], [b])[0] == pytest.approx(sacrebleu.sentence_bleu(a, [b]).score / 100)


def test_sacrebleu_counts_chinese_as_we_do():
    a, b = "一只小黑鸟站在树上", "一只黑鸟站在大树上"
    expected = sacrebleu.sentence_bleu(a, [b], tokenize="zh").score / 100
    assert score("bleu", [a], [b])[0] == pytest.approx(expected)
    assert expected > 0.2


def test_without_our_tokenizer_rouge_would_lose_other_scripts():
    assert RougeScorer(["rougeL"]).score("чёрный дрозд", "чёрный дрозд")["rougeL"].fmeasure == 0
    assert score("rouge_l", ["чёрный дрозд"], ["чёрный дрозд"])[0] == 1


@pytest.mark.parametrize("metric", sorted({*metric_names()} - {"choice", "iou", "iou@0.5", "number"}))
@given(data=st.data())
def test_bounds_identity_and_best_reference(metric, data):
    text = st.text(max_size=20)
    a, b, c = data.draw(text), data.draw(text), data.draw(text)
    sources = {"sources": [c]} if metric == "sari" else {}
    found = score(metric, [a], [b], **sources)[0]
    assert 0 <= found <= 1
    if metric in ("exact_match", "accuracy", "contains", "token_f1"):
        assert score(metric, [a], [a])[0] == 1
        both = score(metric, [a], [[b, c]])[0]
        assert both == max(found, score(metric, [a], [c])[0])


def test_bleu_uses_all_references():
    refs = ["a black bird sits here", "there is a small bird"]
    found = score("bleu", ["a small black bird sits"], [refs])[0]
    assert found == pytest.approx(sacrebleu.sentence_bleu("a small black bird sits", refs).score / 100)
    assert found > max(score("bleu", ["a small black bird sits"] * 2, refs))


def test_sari_ignores_case_and_splits_punctuation():
    plain = score("sari", ["about 95 kinds are now known ."], ["about 95 are known ."], sources=["about 95 kinds ."])
    written = score("sari", ["About 95 kinds are now known."], ["about 95 ARE known."], sources=["About 95 kinds."])
    assert written == plain


def test_corpus_bleu_is_that_of_sacrebleu_and_not_a_mean():
    rng = random.Random(0)
    vocabulary = ["a", "small", "black", "bird", "sits", "on", "the", "old", "tree"]
    predictions = [" ".join(rng.choices(vocabulary, k=rng.randint(4, 12))) for _ in range(20)]
    references = [" ".join(rng.choices(vocabulary, k=rng.randint(4, 12))) for _ in range(20)]
    expected = sacrebleu.corpus_bleu(predictions, [references]).score / 100
    assert corpus_bleu(predictions, references) == pytest.approx(expected)
    assert abs(score("bleu", predictions, references).mean() - expected) > 1e-3
    ragged = [[reference, "a bird"] if i % 2 else reference for i, reference in enumerate(references)]
    streams = [references, ["a bird" if i % 2 else None for i in range(20)]]
    assert corpus_bleu(predictions, ragged) == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score / 100)
    for bad in ([], [[]] * 20):
        with pytest.raises(DataError):
            corpus_bleu(predictions, bad)


def test_a_metric_of_ones_own(monkeypatch):
    monkeypatch.setattr(metrics, "_METRICS", dict(metrics._METRICS))

    @register_metric("same_length")
    def same_length(prediction, references, source):
        return float(any(len(prediction) == len(reference) for reference in references))

    assert "same_length" in metric_names()
    assert score("same_length", ["ab", "ab"], ["cd", ["c", "cde"]]).tolist() == [1, 0]


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="did you mean 'rouge_l'"):
        score("rougel", [], [])
    with pytest.raises(ConfigError, match="exact_match, iou"):
        score("zzz", [], [])
    with pytest.raises(DataError, match="2 predictions, 1 references"):
        score("exact_match", ["a", "b"], ["a"])
    with pytest.raises(DataError, match="1 references, 2 sources"):
        score("sari", ["a"], ["a"], sources=["a", "b"])
    with pytest.raises(DataError, match="sources="):
        score("sari", ["a"], ["a"])
    with pytest.raises(DataError, match="sample 1"):
        score("exact_match", ["a", "b"], ["a", []])
    with pytest.raises(DataError, match="'red' holds no option letter"):
        score("choice", ["A"], ["red"])
    with pytest.raises(DataError, match="holds no number"):
        score("number", ["1"], ["one"])


def test_nothing_to_score():
    assert score("exact_match", [], []).shape == (0,)


@pytest.mark.parametrize(
    ("metric", "module", "pip"),
    [("rouge_l", "rouge_score.rouge_scorer", "rouge-score"), ("bleu", "sacrebleu.metrics", "sacrebleu")],
)
def test_a_missing_library_is_named_with_its_pip_command(metric, module, pip, monkeypatch):
    for cached in (metrics._rouge_scorer, metrics._bleu):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {pip}"):
        score(metric, ["a"], ["a"])


def test_the_versions_of_the_libraries_are_known(monkeypatch):
    assert metric_versions()["sacrebleu"] == sacrebleu.__version__
    monkeypatch.setitem(metrics.PACKAGES, "absent", "no-such-package-of-ours")
    assert metric_versions()["no-such-package-of-ours"] == "not installed"


def test_real_answers_can_be_scored_by_the_metric_of_their_task(shared_data):
    """Every right answer is read by its task's metric, and given back as the prediction it scores 1."""
    for name, spec in BUNDLE.items():
        with gzip.open(shared_data / spec.test[0], "rt", encoding="utf-8") as lines:
            answers = [json.loads(line)["response"] for line in itertools.islice(lines, 40)]
        assert all(metrics.get_metric(spec.metric).parse(answer) is not None for answer in answers), name
        sources = {"sources": answers} if spec.metric == "sari" else {}
        assert score(spec.metric, answers, answers, **sources) == pytest.approx(np.ones(len(answers))), name
        swapped = answers[1:] + answers[:1]
        if len(set(answers)) > 1:
            assert score(spec.metric, swapped, answers, **sources).mean() < 1, name
