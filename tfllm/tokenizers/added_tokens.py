"""The added tokens of a tokenizer.json: strings that are one token wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class AddedToken:
    """A string that is one token wherever it stands.

    Attributes:
        id: the token.
        content: what is looked for.
        special: it stands for no text.
        normalized: it is looked for in the normalized text.
        lstrip, rstrip: it takes the white space before it, or after it, with it.
        single_word: it is not looked for within a word.
    """

    id: int
    content: str
    special: bool
    normalized: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


# What `tokenizers` and `transformers` strip beside an added token; U+001C to U+001F are not in it,
# unlike in Python's str.strip.
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


def check_added_tokens(tokens: Iterable[Any], refuse: Callable[[str], Exception]) -> None:
    """Refuse added tokens of the `tokenizers` library that a graph cannot look for.

    Raises:
        UnsupportedTokenizer: there is one.
    """
    tokens = list(tokens)
    rstrip = any(t.rstrip for t in tokens)
    for token in tokens:
        if token.single_word:
            raise refuse(f"single_word of the added token {token.content!r}")
        if rstrip and token.content[:1].isspace():
            raise refuse(f"rstrip beside an added token that begins with space {token.content!r}")


class Segment(NamedTuple):
    """A part of a text.

    Args:
        text: what stands there.
        id: of an added token; -1: it is text.
        begin: its place in the whole.
    """

    text: str
    id: int
    begin: int


def cut_at(text: str, tokens: Sequence[AddedToken]) -> list[Segment]:
    """Cut a text at added tokens: the leftmost, and of several the longest."""
    if not tokens:
        return [Segment(text, -1, 0)] if text else []
    by_content = {t.content: t for t in tokens}
    contents = sorted(by_content, key=len, reverse=True)
    segments, done = [], 0
    for match in re.finditer("|".join(map(re.escape, contents)), text):
        token = by_content[match.group()]
        begin, end = match.span()
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
    """A control character that is part of no added token.

    Raises:
        UnsupportedTokenizer: an added token has the character U+0000.
    """
    used = {c for t in tokens for c in t.content}
    free = [c for c in range(1, 32) if chr(c) not in used and not chr(c).isspace()]
    if not free or "\0" in used:
        raise refuse("an added token with the character U+0000")
    return free[0]
