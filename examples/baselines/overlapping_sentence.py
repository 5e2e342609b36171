"""Question answering without training: the sentence that shares most words with the question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def overlapping_sentences(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answer in the format of a question answering model: `{"answer": ...}` for each record.

    Args:
        records: Records with `question` and `context`.
    """
    return [{"answer": _best(record["question"], record["context"])} for record in records]


def _best(question: str, context: str) -> str:
    asked = set(re.findall(r"\w+", question.lower()))

    def shared(sentence: str) -> int:
        return len(asked & set(re.findall(r"\w+", sentence.lower())))

    return max(_SENTENCE.split(context), key=shared)
