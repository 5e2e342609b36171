"""Tagging without context: each word gets its most frequent tag."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

_WORD = re.compile(r"\w+|[^\w\s]")


class FrequentTags:
    """The most frequent tag (B-, I- or O) of each word, O for words that were never seen.

    Args:
        records: Records with `text` and `spans` (`begin`, `end`, `label`).
    """

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for record in records:
            spans = sorted((s["begin"], s["end"], s["label"]) for s in record["spans"])
            number = 0
            for match in _WORD.finditer(record["text"]):
                while number < len(spans) and spans[number][1] <= match.start():
                    number += 1
                tag = "O"
                if number < len(spans) and spans[number][0] <= match.start():
                    begin, _, label = spans[number]
                    tag = f"{'B' if begin == match.start() else 'I'}-{label}"
                counts[match.group()][tag] += 1
        # Of equally frequent tags, the first in alphabetical order is chosen, which is B-.
        self._tags = {
            word: min(found, key=lambda tag: (-found[tag], tag)) for word, found in counts.items()
        }

    def predict(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answer in the format of a tagging model: `{"spans": [...]}` for each record."""
        return [{"spans": self._spans(record["text"])} for record in records]

    def _spans(self, text: str) -> list[dict[str, Any]]:
        spans: list[dict[str, Any]] = []
        before = ""
        for match in _WORD.finditer(text):
            prefix, _, label = self._tags.get(match.group(), "O").partition("-")
            if label and prefix == "I" and label == before:
                spans[-1]["end"] = match.end()
            elif label:
                spans.append({"begin": match.start(), "end": match.end(), "label": label})
            before = label
        return spans
