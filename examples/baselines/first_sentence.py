"""The summary that costs nothing: a text's first sentence."""

from __future__ import annotations

import re

# Behind these abbreviations a sentence goes on.
_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)[.!?][\"'”’)]*(?=\s+[\"'“‘(]*[A-Z0-9])")


def first_sentence(text: str) -> str:
    """Up to the first full stop, question mark or exclamation mark before a new sentence."""
    joined = " ".join(text.split())
    end = _END.search(joined)
    return joined[: end.end()] if end else joined
