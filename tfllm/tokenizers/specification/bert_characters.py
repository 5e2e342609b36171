"""The effect of BERT's normalizer and pre-tokenizer on each character, probed from `tokenizers`.

Both handle one character at a time: it is removed or becomes one or more characters, and each of
these is part of a word, a word of its own (punctuation, Chinese), or space. So a table over code
points describes them completely, with the library's own version of Unicode. (The only exception is
the order of combining marks: see `changing_places`.)
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from unicodedata import combining

import numpy as np

from tfllm.tokenizers.specification.character_classes import NUM_CODE_POINTS, distinct_pages

REMOVED, IN_WORD, SPACE, ALONE, EXPANDED = range(5)
"""Kinds of characters; from EXPANDED on, the number identifies the expansion."""

_PAGE_BITS = 7
_BETWEEN = "\u16a0"  # a rune, which no character is normalized to
# Planes 4 to 13 have no characters, 15 and 16 private ones except for the last two of each: the
# first code point of each of these ranges represents the range.
_PROBED = ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE1000))
_UNIFORM = tuple(
    range(*bounds)
    for bounds in (
        (0x40000, 0xE0000),
        (0xE1000, 0xF0000),
        (0xF0000, 0xFFFFE),
        (0xFFFFE, 0x100000),
        (0x100000, 0x10FFFE),
        (0x10FFFE, NUM_CODE_POINTS),
    )
)


@dataclass(frozen=True)
class BertCharacters:
    """A table over code points.

    page_of: int32 [8704], the page of each run of 128 code points.
    kinds: int32 [pages * 128], REMOVED, IN_WORD, SPACE, ALONE, or EXPANDED + index of the
        expansion.
    shifts: int32 [pages * 128], the difference between a code point and its one replacement.
    splits: int32 [expansions + 1], where each expansion begins and ends in the next two.
    values: int32 [...], the code points of all expansions.
    value_kinds: int32 [...], their kinds.
    """

    page_of: np.ndarray
    kinds: np.ndarray
    shifts: np.ndarray
    splits: np.ndarray
    values: np.ndarray
    value_kinds: np.ndarray

    page_bits = _PAGE_BITS


@functools.lru_cache(maxsize=8)
def bert_characters(normalizer: str, *, with_spaces: bool = False) -> BertCharacters:
    """The table of a normalizer and the BertPreTokenizer after it.

    Args:
        normalizer: JSON of a BertNormalizer, as in tokenizer.json.
        with_spaces: Whether the table keeps every space that the normalizer adds, for tokens that
            are searched for in normalized text. If False, a word of its own has the kind ALONE.
    """
    normalize = _made(normalizer).normalize_str
    classes = _classes()
    kinds = np.zeros(NUM_CODE_POINTS, np.int32)
    shifts = np.zeros(NUM_CODE_POINTS, np.int32)
    splits: list[int] = [0]
    values: list[int] = []
    value_kinds: list[int] = []
    expansions: dict[str, int] = {}
    for low, high in (*_PROBED, *((plane.start, plane.start + 1) for plane in _UNIFORM)):
        text = _BETWEEN.join(map(chr, range(low, high)))
        forms = normalize(text).split(_BETWEEN) if low != ord(_BETWEEN) else []
        if low <= ord(_BETWEEN) < high:  # the rune itself is in the text, so two forms are empty
            at = ord(_BETWEEN) - low
            forms[at : at + 2] = [_BETWEEN]
        assert len(forms) == high - low
        for point, form in enumerate(forms, low):
            inner = form if with_spaces else form.strip(" ")
            if len(inner) == 1:
                code = ord(inner)
                kinds[point] = ALONE if len(form) > 1 else classes[code]
                shifts[point] = code - point
            elif not inner:
                kinds[point] = SPACE if form else REMOVED
            else:
                if form not in expansions:
                    expansions[form] = len(expansions)
                    values += map(ord, form)
                    value_kinds += [classes[ord(c)] for c in form]
                    splits.append(len(values))
                kinds[point] = EXPANDED + expansions[form]
    for plane in _UNIFORM:
        kinds[plane.start : plane.stop] = kinds[plane.start]
    both = np.stack([kinds, shifts], 1).reshape(-1, 2 << _PAGE_BITS)
    page_of, pages = distinct_pages(both)
    pages = pages.reshape(-1, 2)
    return BertCharacters(
        page_of,
        np.ascontiguousarray(pages[:, 0]),
        np.ascontiguousarray(pages[:, 1]),
        np.array(splits, np.int32),
        np.array(values, np.int32),
        np.array(value_kinds, np.int32),
    )


def changing_places(normalizer: str, characters: Iterable[str]) -> str:
    """Find two of the characters that the normalizer may reorder, if they are combining; or "".

    If a vocabulary has at most one of such a pair, the order makes no difference: a word with a
    character that is not in the vocabulary is unknown as a whole.

    Args:
        normalizer: JSON of a BertNormalizer, as in tokenizer.json.
        characters: Characters of the vocabulary.
    """
    normalize = _made(normalizer).normalize_str
    kept = [c for c in sorted(set(characters)) if combining(c) and normalize(c) == c]
    pairs = (c + d for c in kept for d in kept)
    return next((pair for pair in pairs if normalize(pair) != pair), "")


def _made(normalizer: str) -> Any:
    from tokenizers import Tokenizer, models

    empty = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    return Tokenizer.from_str(
        json.dumps({**json.loads(empty.to_str()), "normalizer": json.loads(normalizer)})
    ).normalizer


@functools.lru_cache(maxsize=1)
def _classes() -> np.ndarray:
    """int32 [1114112], how BertPreTokenizer classifies each character: IN_WORD, SPACE or ALONE."""
    from tokenizers import pre_tokenizers

    cut = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    classes = np.full(NUM_CODE_POINTS, SPACE, np.int32)
    for low, high in (*_PROBED, *((plane.start, plane.start + 1) for plane in _UNIFORM)):
        for piece, (begin, end) in cut("".join(map(chr, range(low, high)))):
            # A part of a word between two punctuation marks is one character, too.
            alone = end - begin == 1 and len(cut(piece * 2)) == 2
            classes[low + begin : low + end] = ALONE if alone else IN_WORD
    for plane in _UNIFORM:
        classes[plane.start : plane.stop] = classes[plane.start]
    return classes
