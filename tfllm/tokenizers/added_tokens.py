"""The added tokens of a tokenizer.json: strings that always become one token."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tfllm.tokenizers.specification.character_classes import NUM_CODE_POINTS, CharacterSet


@dataclass(frozen=True)
class AddedToken:
    """A string that always becomes one token, wherever it occurs in a text.

    Attributes:
        id: Id of the token.
        content: String that is searched for.
        special: Whether it is a special token, which stands for no text.
        normalized: Whether it is searched for in the normalized text.
        lstrip, rstrip: Whether it takes the white space before it, or after it, with it.
        single_word: Whether it is ignored inside a word.
    """

    id: int
    content: str
    special: bool
    normalized: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


# The characters that `tokenizers` and `transformers` strip around an added token. U+001C to U+001F
# are not among them, unlike in Python's str.strip.
SPACE = "".join(
    map(
        chr,
        (
            *range(9, 14),
            0x20,
            0x85,
            0xA0,
            0x1680,
            *range(0x2000, 0x200B),
            0x2028,
            0x2029,
            0x202F,
            0x205F,
            0x3000,
        ),
    )
)


SPACE_PATTERN = (
    r"[\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
)
"""The same characters as a pattern of RE2."""


def read_added_tokens(
    tokens: Mapping[int, Any], normalize: Callable[[str], str], refuse: Callable[[str], Exception]
) -> list[AddedToken]:
    """Read the added tokens of the `tokenizers` library for use in a graph.

    Args:
        tokens: Added tokens by id, as the library numbers them.
        normalize: The tokenizer's normalizer. It is applied to the content of `normalized` tokens,
            since they are searched for in normalized text.
        refuse: Returns the error to raise, given what is not supported.

    Raises:
        UnsupportedTokenizer: If a graph cannot search for one of them.
    """
    check_added_tokens(tokens.values(), refuse)
    read = []
    for id_, token in sorted(tokens.items()):
        content = normalize(token.content) if token.normalized else token.content
        if token.content and not content:
            raise refuse(f"the added token {token.content!r}, which is empty once normalized")
        if content:
            flags = (token.lstrip, token.rstrip, token.single_word)
            read.append(AddedToken(id_, content, token.special, token.normalized, *flags))
    return read


def check_added_tokens(tokens: Iterable[Any], refuse: Callable[[str], Exception]) -> None:
    """Check that a graph can search for these added tokens of the `tokenizers` library.

    Raises:
        UnsupportedTokenizer: If it cannot search for one of them.
    """
    tokens = list(tokens)
    rstrip = any(t.rstrip for t in tokens)
    for token in tokens:
        if rstrip and token.content[:1].isspace():
            raise refuse(f"rstrip next to an added token that begins with space {token.content!r}")


@functools.lru_cache(maxsize=1)
def word_characters() -> CharacterSet:
    """The characters next to which a `single_word` token does not match, found with the library."""
    from tokenizers import AddedToken as LibraryToken
    from tokenizers import Tokenizer, models

    token = "\ufdd1"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([LibraryToken(token, single_word=True, normalized=False)])
    mask = np.zeros(NUM_CODE_POINTS, bool)
    for low, high in ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE1000)):
        text = "".join(f"{token}{chr(point)} " for point in range(low, high))
        found = {begin // 3 for begin, _ in tokenizer.encode(text).offsets if begin % 3 == 0}
        mask[low:high] = [point not in found for point in range(high - low)]
    mask[ord(token)] = False  # it was next to itself
    return CharacterSet.from_mask(mask)


class Segment(NamedTuple):
    """A part of a text.

    Args:
        text: Text of the part.
        id: Id of an added token; -1 for ordinary text.
        begin: Index of its first character in the whole text.
    """

    text: str
    id: int
    begin: int


def cut_at(text: str, tokens: Sequence[AddedToken]) -> list[Segment]:
    """Cut a text at added tokens: the leftmost match wins, and of several the longest."""
    if not tokens:
        return [Segment(text, -1, 0)] if text else []
    by_content = {t.content: t for t in tokens}
    contents = sorted(by_content, key=len, reverse=True)
    segments, done = [], 0
    words = word_characters() if any(t.single_word for t in tokens) else None
    for match in re.finditer("|".join(map(re.escape, contents)), text):
        token = by_content[match.group()]
        begin, end = match.span()
        if token.single_word and words is not None:
            adjacent = [ord(c) for c in text[:begin][-1:] + text[end:][:1]]
            if words.contains(np.array(adjacent, np.int64)).any():
                continue
        if token.lstrip:
            begin = max(done, len(text[:begin].rstrip(SPACE)))
        if token.rstrip:
            end += len(text[end:]) - len(text[end:].lstrip(SPACE))
        if done < begin:
            segments.append(Segment(text[done:begin], -1, done))
        segments.append(Segment(token.content, token.id, begin))
        done = end
    if done < len(text):
        segments.append(Segment(text[done:], -1, done))
    return segments


def stand_in_for_nul(tokens: Iterable[AddedToken], refuse: Callable[[str], Exception]) -> int:
    """Find a control character that occurs in no added token.

    Raises:
        UnsupportedTokenizer: If an added token contains the character U+0000.
    """
    used = {c for t in tokens for c in t.content}
    free = [c for c in range(1, 32) if chr(c) not in used and not chr(c).isspace()]
    if not free or "\0" in used:
        raise refuse("an added token with the character U+0000")
    return free[0]
