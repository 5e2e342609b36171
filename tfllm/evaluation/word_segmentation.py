"""Words of texts in any script, and which tokenizer suits a metric's references."""

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
    "unspaced": regex.compile(rf"[{_UNSPACED}]"),  # of these the others
    # Whose punctuation the rules of 13a know.
    "european": regex.compile(
        r"[\p{Latin}\p{Cyrillic}\p{Greek}\p{Armenian}\p{Georgian}\p{Hangul}]"
    ),
    "other": regex.compile(r"\p{L}"),
}
"""of a word, by its first letter; the first that matches"""
_LETTER = regex.compile(r"\p{L}")
_ASCII = regex.compile(r"[A-Za-z]")
_MOST_OTHERS = 0.01
"""of the letters of English text are not ASCII (café, naïve)"""


def unicode_words(text: str) -> list[str]:
    """Runs of letters, marks and digits in lower case.

    A letter of a script without spaces between words, such as Chinese, Japanese or Thai, is a word
    by itself, with its marks.
    """
    return _WORDS.findall(text.lower())


def split_unspaced(word: str) -> list[str]:
    """A word's letters of scripts without spaces one by one, and what lies between them."""
    return _PIECES.findall(word)


def bleu_tokenizer(references: Iterable[str]) -> str:
    """sacrebleu's tokenizer that suits the script of most words.

    "zh" for Chinese; "char" for Japanese, Thai and others without spaces between words; "13a", the
    usual one, for Latin, Cyrillic, Greek and Korean letters; "intl", which parts the punctuation of
    every script, for others, such as Hindi and Arabic.
    """
    counts = dict.fromkeys(_KINDS, 0)
    for text in references:
        for word in unicode_words(text):
            kind = next((k for k, pattern in _KINDS.items() if pattern.match(word)), None)
            if kind is not None:
                counts[kind] += 1
    kind = max(counts, key=lambda k: counts[k])
    if not counts[kind]:  # numbers and punctuation alone
        return "13a"
    if kind in ("kana", "han"):
        return "char" if 10 * counts["kana"] > counts["han"] else "zh"
    return {"unspaced": "char", "european": "13a", "other": "intl"}[kind]


def is_english(references: Iterable[str]) -> bool:
    """Whether nearly all letters are ASCII, and no text that has letters has none of these."""
    letters = of_ascii = 0
    for text in references:
        own, own_ascii = len(_LETTER.findall(text)), len(_ASCII.findall(text))
        if own and not own_ascii:
            return False
        letters, of_ascii = letters + own, of_ascii + own_ascii
    return letters - of_ascii <= _MOST_OTHERS * letters
