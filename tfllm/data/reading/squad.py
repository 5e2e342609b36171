"""Read data in SQuAD's format: one JSON object of articles, paragraphs and their questions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfllm.data.reading.json_records import BadRecord, OnBad


def is_squad(value: dict[str, Any]) -> bool:
    """Whether a JSON object is a complete data set in SQuAD's format."""
    articles = value.get("data")
    return (
        isinstance(articles, list)
        and bool(articles)
        and isinstance(articles[0], dict)
        and isinstance(articles[0].get("paragraphs"), list)
    )


def squad_records(
    value: dict[str, Any], where: str, on_bad: OnBad
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) for each question, with its `question`, `context` and `answers`.

    Args:
        value: an object for which `is_squad` is true.
        where: file and line of the object.
        on_bad: called with the error of each malformed question; raises it or returns.
    """
    for i, article in enumerate(value["data"], 1):
        for j, paragraph in enumerate(_list(article, "paragraphs"), 1):
            place = f"{where}, article {i}, paragraph {j}"
            context = paragraph.get("context") if isinstance(paragraph, dict) else None
            if not isinstance(context, str):
                on_bad(BadRecord(place, " must have a 'context', a string"))
                continue
            for k, asked in enumerate(_list(paragraph, "qas"), 1):
                here = f"{place}, question {k}"
                if not isinstance(asked, dict) or not isinstance(asked.get("question"), str):
                    on_bad(BadRecord(here, " must have a 'question', a string"))
                    continue
                answers = [] if asked.get("is_impossible") else asked.get("answers", [])
                yield (
                    here,
                    {"question": asked["question"], "context": context, "answers": answers},
                )


def _list(value: Any, name: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []
