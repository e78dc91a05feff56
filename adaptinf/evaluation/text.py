"""How texts are compared: normal form, words, final numbers and the letters of a choice."""

from __future__ import annotations

import unicodedata
from decimal import Decimal

import regex

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
"""Scripts written without spaces between words: there one character (with its marks) counts as a word."""

_WORD = regex.compile(rf"(?V1)[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+")
_TOKEN = regex.compile(rf"(?V1)[{_UNSPACED}]\p{{M}}*|[^\s{_UNSPACED}]+")
_UNSPACED_CHARACTER = regex.compile(rf"[{_UNSPACED}]\p{{M}}*")
_THOUSANDS = regex.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_INSIDE_WORD = regex.compile(r"(?<=\p{L})['’.](?=\p{L})")
_PUNCTUATION = regex.compile(r"((?<=\d)[./:](?=\d)|(?<![\w.])\.(?=\d)|(?<![\w)])-(?=\.?\d)|%)|\p{P}")
"""Group 1 is what stays: 3.5, 1/2, 10:30, .5, -5 and %."""
_ARTICLE = regex.compile(r"\b(?:a|an|the)\s+(?=\S)")

_NUMBER = regex.compile(r"(?:(?<![\w)])[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)")

_BARE_LETTER = regex.compile(r"\(?\s*([A-Za-z])\s*[).:]*")
_LEADING_LETTER = regex.compile(r"\(\s*([A-Za-z])\s*\)|([A-Za-z])[).:](?=\s|$)")
_ANNOUNCED_LETTER = regex.compile(
    r"\b(?i:(?:answer|option|choice)(?:\s+is\s*:?|\s*:)|option|choice)[\s*\"']*"
    r"(?:\(\s*([A-Za-z])\s*\)|([A-Z])\b|([a-z])(?=[).:]|$))"
)
_BRACKETED_LETTER = regex.compile(r"\(\s*([A-Za-z])\s*\)")


def normalise(text: str) -> str:
    """The text without what does not change an answer's meaning.

    NFKC, case folded; apostrophes and periods inside words (don't, U.S.) and thousands separators removed, other
    punctuation made a space (what belongs to a number stays, as in 3.5, 1/2, -5, and so do symbols such as % $ +);
    English articles removed where a word follows, so that the option letter "A" survives; white space collapsed. A text
    that would vanish altogether, such as "?!", is only stripped and case folded.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\N{MINUS SIGN}", "-")
    kept = _INSIDE_WORD.sub("", _THOUSANDS.sub("", folded))
    kept = _PUNCTUATION.sub(lambda found: found[1] or " ", kept)
    kept = " ".join(_ARTICLE.sub("", kept).split())
    return kept or folded.strip()


def tokens(text: str) -> list[str]:
    """The tokens of a normalised text: between spaces, or single characters in scripts that write no spaces."""
    return _TOKEN.findall(text)


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, or single characters in scripts that write no spaces.

    On ASCII text this equals the default tokenizer of ``rouge-score`` without stemming, which loses other scripts.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def space_out(text: str) -> str:
    """The text with a space around each character of a script that writes none, for tokenizers that need spaces."""
    return _UNSPACED_CHARACTER.sub(r" \g<0> ", text)


def final_number(text: str) -> Decimal | None:
    """The last number of a text, where a worked-out answer ends; thousands separators and decimals are understood."""
    found = _NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))
    return Decimal(found[-1].replace(",", "")) if found else None


def choice_letter(text: str) -> str | None:
    """The option that an answer chooses, as a capital letter, or None.

    In this order: the whole text is a letter, as in ``b``, ``(B)``, ``B.``; it starts with a marked one, as in ``(B)
    because`` or ``B: red``; the last one announced by "answer", "option" or "choice"; the only one in brackets.
    """
    stripped = text.strip()
    for found in (_BARE_LETTER.fullmatch(stripped), _LEADING_LETTER.match(stripped)):
        if found:
            return _letter(found)
    announced = list(_ANNOUNCED_LETTER.finditer(stripped))
    if announced:
        return _letter(announced[-1])
    bracketed = {letter.upper() for letter in _BRACKETED_LETTER.findall(stripped)}
    return bracketed.pop() if len(bracketed) == 1 else None


def _letter(found: regex.Match[str]) -> str:
    return next(letter for letter in found.groups() if letter).upper()
