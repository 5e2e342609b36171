"""What becomes of the space that SentencePiece puts before a text when ids are made text again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

SPACE = "\u2581"
"""stands for a space in a vocabulary"""

LeadingSpace = Literal["keep", "one", "each", "token"]
"""keep: it stays; one: the text loses one; each: so does each piece that nothing but spaces stands
before; token: the first token loses all its spaces"""


def joined(parts: Sequence[bytes], leading: LeadingSpace) -> bytes:
    """The bytes of a text.

    Args:
        parts: of each token.
        leading: what becomes of its first space.
    """
    parts = [part for part in parts if part]
    if parts and leading == "token":
        parts[0] = parts[0].replace(b" ", b"")
    if leading == "each":
        first = next((i for i, part in enumerate(parts) if part != b" "), len(parts))
        parts = parts[first:]
    text = b"".join(parts)
    return text.removeprefix(b" ") if leading in ("one", "each") else text
