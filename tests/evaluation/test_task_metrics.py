from __future__ import annotations

import builtins
import random
import sys
from functools import lru_cache

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

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


texts = st.lists(st.sampled_from(["a", "bird", "Cat", "дрозд", "鸟", "2"]), max_size=8)


@given(texts, texts)
def test_rouge_l_against_plain_recursion(a, b):
    low_a, low_b = [w.lower() for w in a], [w.lower() for w in b]
    common = lcs(tuple(low_a), tuple(low_b))
    expected = 2 * common / (len(a) + len(b)) if common else 0
    assert score("rouge_l", [" ".join(a)], [" ".join(b)])[0] == pytest.approx(expected)
    shared = sum(min(low_a.count(word), low_b.count(word)) for word in set(low_a))
    expected = 2 * shared / (len(a) + len(b)) if shared else 0
    assert score("rouge_1", [" ".join(a)], [" ".join(b)])[0] == pytest.approx(expected)
    assert score("token_f1", ["x " + " ".join(a)], ["x " + " ".join(b)])[0] == pytest.approx(
        brute_f1([*low_a, "x"], [*low_b, "x"])
    )


def brute_f1(a, b):
    """F1 by striking out matches one at a time; articles do not count where a word follows, and "x" comes first."""
    a, b = (
        [word for i, word in enumerate(words[-1:] + words[:-1]) if word != "a" or i == len(words) - 1]
        for words in (a, b)
    )
    left, hits = list(b), 0
    for word in a:
        if word in left:
            left.remove(word)
            hits += 1
    return 2 * hits / (len(a) + len(b))


@given(
    st.text(alphabet=st.characters(codec="ascii"), max_size=60),
    st.text(alphabet=st.characters(codec="ascii"), max_size=60),
)
def test_libraries_of_english_are_reproduced(a, b):
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


@pytest.mark.parametrize(
    "metric", [name for name in metric_names() if name not in ("choice", "iou", "iou@0.5", "number")]
)
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


def test_corpus_bleu_is_that_of_sacrebleu_and_not_a_mean():
    rng = random.Random(0)
    vocabulary = "a small black bird sits on the old tree".split()
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
    ("metric", "package", "pip"), [("rouge_l", "rouge_score", "rouge-score"), ("bleu", "sacrebleu", "sacrebleu")]
)
def test_a_missing_library_is_named_with_its_pip_command(metric, package, pip, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **named):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}")
        return real(name, *rest, **named)

    for cached in (metrics._rouge_scorer, metrics._bleu):
        cached.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=f"pip install {pip}"):
        score(metric, ["a"], ["a"])


def test_the_versions_of_the_libraries_are_known(monkeypatch):
    assert metric_versions()["sacrebleu"] == sacrebleu.__version__
    monkeypatch.setitem(metrics.PACKAGES, "absent", "no-such-package-of-ours")
    assert metric_versions()["no-such-package-of-ours"] == "not installed"
