from __future__ import annotations

import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from adaptinf.evaluation.text import choice_letter, final_number, normalise, space_out, tokens, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The Cat's  hat! ", "cats hat"),
        ("Don’t", "dont"),
        ("U.S.A.", "usa"),
        ("state-of-the-art", "state of art"),
        ("“Yes.”", "yes"),
        ("A", "a"),
        ("(a)", "a"),
        ("an apple", "apple"),
        ("the", "the"),
        ("Anna and theo", "anna and theo"),
        ("3.5 %", "3.5 %"),
        (".5", ".5"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("3 - 5", "3 5"),
        ("1,234,567.8", "1234567.8"),
        ("1, 2, 3", "1 2 3"),
        ("12/03/2018 10:30", "12/03/2018 10:30"),
        ("#### 42.", "42"),
        ("Ｆｕｌｌ　ｗｉｄｔｈ！", "full width"),
        ("STRASSE straße", "strasse strasse"),
        ("हिन्दी।", "हिन्दी"),
        ("猫と、犬。", "猫と 犬"),
        ("?!", "?!"),
        ("  ", ""),
        ("", ""),
    ],
)
def test_normal_form(text, expected):
    assert normalise(text) == expected


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_normal_form_ignores_case_and_outer_space(text):
    assert normalise(text) == normalise(f" {text.upper()}\n") == normalise(text.lower())


@given(st.text())
def test_normal_form_only_vanishes_with_the_text(text):
    form = normalise(text)
    assert bool(form) == bool(text.strip())
    assert form == form.strip()


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_words_of_ascii_are_those_of_rouge_score(text):
    assert words(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ein schöner Vogel", ["ein", "schöner", "vogel"]),
        ("Чёрный дрозд.", ["чёрный", "дрозд"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("검은 새", ["검은", "새"]),
        ("طائر أسود", ["طائر", "أسود"]),
        ("黒い鳥2羽", ["黒", "い", "鳥", "2", "羽"]),
        ("นกดำ", ["น", "ก", "ด\u0e4d", "\u0e32"]),  # NFKC splits the vowel am into a mark and a vowel
        ("กี่", ["กี่"]),
        ("ABC鸟def", ["abc", "鸟", "def"]),
        ("?!", []),
    ],
)
def test_words_of_every_script(text, expected):
    assert words(text) == [unicodedata.normalize("NFKC", word) for word in expected]


def test_tokens_keep_numbers_whole():
    assert tokens(normalise("It's 3.5 km, 黒い")) == ["its", "3.5", "km", "黒", "い"]


@given(st.text(alphabet="一二三四五六七八九十鸟猫 abc12.,"))
def test_spaced_out_han_is_tokenised_as_by_sacrebleu_zh(text):
    spaced = space_out(text).split()
    assert [w for w in spaced if not w.isascii()] == [w for w in TokenizerZh()(text).split() if not w.isascii()]
    assert "".join(spaced) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B) ", "B"),
        ("(b).", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("B: red", "B"),
        ("(B) because it is red", "B"),
        ("B. The red one, not (C)", "B"),
        ("The answer is C.", "C"),
        ("the answer is (c)", "C"),
        ("Answer: D", "D"),
        ("answer: **D**", "D"),
        ("Option E fits", "E"),
        ("The answer is (A). No wait, the answer is (B).", "B"),
        ("It must be (A)", "A"),
        ("(A) and so (A)", "A"),
        ("so (A), not (B)", None),
        ("The answer I would give is (B)", "B"),
        ("The answer is a cat", None),
        ("A cat", None),
        ("I think so", None),
        ("Because", None),
        ("12", None),
        ("", None),
        ("(1)", None),
        ("(Б)", None),
    ],
)
def test_choice_letter(text, letter):
    assert choice_letter(text) == letter


FORMS = ["{}", "({})", "{}.", "{})", "Answer: {}", "The answer is ({}).", "({}) x"]


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from(FORMS))
def test_choice_letter_of_common_forms(letter, form):
    assert choice_letter(form.format(letter)) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 42", "42"),
        ("so 6 + 36 = 42.", "42"),
        ("1,234.50", "1234.5"),
        ("1,000,000", "1000000"),
        ("12,34", "34"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("3-5", "5"),
        ("x = -.5", "-0.5"),
        ("٤٢", "42"),
        ("none", None),
        ("", None),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


@given(st.integers(-(10**12), 10**12), st.text(alphabet="abc =", max_size=5))
def test_final_number_reads_what_python_prints(number, before):
    assert final_number(f"{before} {number}") == number
    assert final_number(f"{before} {number:,}") == number
