"""The summary that costs nothing: a text's first sentence."""

from __future__ import annotations

import re

_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])")


def first_sentence(text: str) -> str:
    """Up to the first full stop, question mark or exclamation mark before a new sentence."""
    return _END.split(" ".join(text.split()), maxsplit=1)[0]
