"""Removal of the space that SentencePiece adds before a text, when ids are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

SPACE = "\u2581"
"""The character that stands for a space in a vocabulary."""

LeadingSpace = Literal["keep", "one", "each", "token"]
"""What is removed: "keep": nothing; "one": one space at the start of the text; "each": that, and
all pieces at the start that are a single space; "token": all spaces of the first token."""


def joined(parts: Sequence[bytes], leading: LeadingSpace) -> bytes:
    """Join the bytes of tokens to those of a text.

    Args:
        parts: Bytes of each token.
        leading: Which spaces at the start are removed.
    """
    parts = [part for part in parts if part]
    if parts and leading == "token":
        parts[0] = parts[0].replace(b" ", b"")
    if leading == "each":
        first = next((i for i, part in enumerate(parts) if part != b" "), len(parts))
        parts = parts[first:]
    text = b"".join(parts)
    return text.removeprefix(b" ") if leading in ("one", "each") else text
