from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptinf.evaluation import score
from adaptinf.evaluation.sari import sari

SOURCE = "About 95 species are currently accepted ."
REFERENCES = [
    "About 95 species are currently known .",
    "About 95 species are now accepted .",
    "95 species are now accepted .",
]


@pytest.mark.parametrize(
    ("prediction", "published"),
    [
        ("About 95 you now get in .", 0.2695360),
        ("About 95 species are now agreed .", 0.6170966),
        ("About 95 species are currently agreed .", 0.5088682),
    ],
)
def test_the_examples_of_the_paper(prediction, published):
    # The paper's sentences; the values are those of tensor2tensor, whose conventions sari() names. To its 7 digits.
    found = sari(SOURCE.split(), prediction.split(), [reference.split() for reference in REFERENCES])
    assert found == pytest.approx(published, abs=5e-8)
    assert score("sari", [prediction], [REFERENCES], sources=[SOURCE])[0] == pytest.approx(published, abs=5e-8)


@pytest.mark.parametrize(
    ("source", "prediction", "references", "expected"),
    [
        # Unigrams: the kept "a" is right (P 1, R 2/3, F1 4/5), of the deleted "b" half is (1/2). Bigrams: "a b" is
        # deleted, half rightly, and nothing of it is kept though it should be (P 1, R 0). Adding: nothing to do.
        ("a b", "a", ["a", "a b"], ((4 / 5 + 1 / 2 + 1) + (0 + 1 / 2 + 1) + 3 + 3) / 12),
        # Unigrams: "a" added, "a" and "b" wanted (F1 2/3); bigrams: "a a" added, none wanted (P 0, R 1).
        ("", "a a", ["a", "b"], ((2 + 2 / 3) + 2 + 3 + 3) / 12),
        ("a", "", [""], 1),
        ("", "", ["a"], 11 / 12),
        ("", "a", [""], 11 / 12),
        ("a", "a", [""], 11 / 12),
        ("a", "", ["a"], 10 / 12),
        ("a b c d", "a b c d", [""], 2 / 3),
    ],
)
def test_by_hand(source, prediction, references, expected):
    found = sari(source.split(), prediction.split(), [reference.split() for reference in references])
    assert found == pytest.approx(expected)


sentences = st.lists(st.sampled_from("abcd"), max_size=7)


@given(sentences, sentences, st.lists(sentences, min_size=1, max_size=3))
def test_properties(source, prediction, references):
    found = sari(source, prediction, references)
    assert 0 <= found <= 1
    assert sari(source, prediction, references * 2) == pytest.approx(found)
    assert sari(source, prediction, references[::-1]) == pytest.approx(found)


unrepeated = st.lists(st.sampled_from("abcdefg"), max_size=7, unique=True)


@given(unrepeated, unrepeated)
def test_the_only_reference_scores_full_marks(source, reference):
    assert sari(source, reference, [reference]) == pytest.approx(1)


def test_a_deletion_of_one_of_two_equal_words_is_counted_as_the_published_implementations_do():
    assert sari(["a", "a"], ["a"], [["a"]]) == pytest.approx(11 / 12)
