"""The simplest summary: the first sentence of a text."""

from __future__ import annotations

import re

# A sentence continues after these abbreviations.
_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)[.!?][\"'”’)]*(?=\s+[\"'“‘(]*[A-Z0-9])")


def first_sentence(text: str) -> str:
    """The text up to the first full stop, question or exclamation mark before a new sentence."""
    joined = " ".join(text.split())
    end = _END.search(joined)
    return joined[: end.end()] if end else joined
