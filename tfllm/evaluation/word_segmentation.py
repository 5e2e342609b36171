"""Split texts in any script into words, and choose a metric's tokenizer by the script."""

from __future__ import annotations

from collections.abc import Iterable

import regex

_UNSPACED = (
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}"
    r"\p{Script=Khmer}\p{Script=Myanmar}\p{Script=Tibetan}"
)
"""scripts that put no spaces between words"""
_WORDS = regex.compile(
    rf"(?V1)[{_UNSPACED}&&\p{{L}}]\p{{M}}*|[\p{{L}}\p{{M}}\p{{N}}--[{_UNSPACED}&&\p{{L}}]]+"
)
_PIECES = regex.compile(rf"(?V1)[{_UNSPACED}&&\p{{L}}]\p{{M}}*|[^{_UNSPACED}]+|[{_UNSPACED}]")
_KINDS = {
    "kana": regex.compile(r"[\p{Script=Hiragana}\p{Script=Katakana}]"),
    "han": regex.compile(r"\p{Script=Han}"),
    "unspaced": regex.compile(rf"[{_UNSPACED}]"),  # other scripts without spaces
    # Scripts whose punctuation the rules of 13a handle.
    "european": regex.compile(
        r"[\p{Latin}\p{Cyrillic}\p{Greek}\p{Armenian}\p{Georgian}\p{Hangul}]"
    ),
    "other": regex.compile(r"\p{L}"),
}
"""kinds of words by their first letter; the first that matches counts"""
_LETTER = regex.compile(r"\p{L}")
_ASCII = regex.compile(r"[A-Za-z]")
_MOST_OTHERS = 0.01
"""maximum fraction of letters in English text that are not ASCII (café, naïve)"""


def unicode_words(text: str) -> list[str]:
    """Split a text into runs of letters, marks and digits, in lower case.

    In scripts without spaces between words, such as Chinese, Japanese or Thai, each letter with its
    marks is a word.
    """
    return _WORDS.findall(text.lower())


def split_unspaced(word: str) -> list[str]:
    """Split a word into single letters of scripts without spaces, and the text between them."""
    return _PIECES.findall(word)


def bleu_tokenizer(references: Iterable[str]) -> str:
    """The tokenizer of sacrebleu for the most frequent script of the references.

    "zh" for Chinese; "char" for Japanese, Thai and others without spaces between words; "13a", the
    usual one, for Latin, Cyrillic, Greek and Korean letters; "intl", which separates the
    punctuation of every script, for others, such as Hindi and Arabic.
    """
    counts = dict.fromkeys(_KINDS, 0)
    for text in references:
        for word in unicode_words(text):
            kind = next((k for k, pattern in _KINDS.items() if pattern.match(word)), None)
            if kind is not None:
                counts[kind] += 1
    kind = max(counts, key=lambda k: counts[k])
    if not counts[kind]:  # only numbers and punctuation
        return "13a"
    if kind in ("kana", "han"):
        return "char" if 10 * counts["kana"] > counts["han"] else "zh"
    return {"unspaced": "char", "european": "13a", "other": "intl"}[kind]


def is_english(references: Iterable[str]) -> bool:
    """Whether nearly all letters are ASCII, and each text with letters has ASCII letters."""
    letters = of_ascii = 0
    for text in references:
        own, own_ascii = len(_LETTER.findall(text)), len(_ASCII.findall(text))
        if own and not own_ascii:
            return False
        letters, of_ascii = letters + own, of_ascii + own_ascii
    return letters - of_ascii <= _MOST_OTHERS * letters
