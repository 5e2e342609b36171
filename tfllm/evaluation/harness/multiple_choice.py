"""Which of several texts goes on from a context, by log-likelihood (HellaSwag and its kind)."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.table_records import Column, Record, Source
from tfllm.evaluation.harness.harness import HarnessResult, ScoresText, in_batches, read_records
from tfllm.evaluation.measures import mean

COLUMNS = {
    "context": Column(("ctx", "question", "prompt", "query", "goal")),
    "choices": Column(("endings", "options"), kind="json"),
    "answer": Column(("label", "gold", "expected_index", "answerKey", "expected"), kind="label"),
    "activity_label": Column(required=False),
}
"""of a record; `activity_label` is HellaSwag's, and stands before the context, as is usual there"""


def multiple_choice(
    model: ScoresText,
    data: Source | Sequence[Mapping[str, Any]],
    *,
    limit: int = 0,
    batch_size: int = 16,
    template: str = "{context}",
) -> HarnessResult:
    """Choose the text that the model finds likeliest after the context.

    log p(choice | context) is the log-likelihood of context and choice less that of the context
    alone. "accuracy" takes the largest; "accuracy, length-normalised" the largest a byte of the
    choice, which does not prefer short ones (as HellaSwag is mostly reported).

    Args:
        model: what scores texts.
        data: files with `COLUMNS` (`choices`: a list of texts, or an object with a list "text" and
            a list "label" of their names; `answer`: the number of the right one from 0, or its
            name, or its letter A to Z), or records.
        limit: the first so many records; 0: all.
        batch_size: texts that are scored at once.
        template: of what stands before the choice, such as "Question: {context}\\nAnswer:".

    Raises:
        ValueError: a record is not of this form, or too long for the model.
    """
    if "{context}" not in template:
        raise ValueError(f"template must have {{context}} in it; received {template!r}")
    records = read_records(data, COLUMNS, limit)
    contexts, choices, answers = [], [], []
    for record in records:
        texts, answer = _choices(record)
        context = str(record["context"])
        if label := record.get("activity_label"):
            context = f"{label}: {context}"
        contexts.append(template.replace("{context}", context).rstrip())
        choices.append(texts)
        answers.append(answer)
    wholes = [c + _joined(t) for c, texts in zip(contexts, choices, strict=True) for t in texts]
    scores = in_batches([*wholes, *contexts], model.score, batch_size)
    log_probs = iter([score["log_prob"] for score in scores[: len(wholes)]])
    right, right_by_byte, predictions = [], [], []
    for record, texts, answer, before in zip(
        records, choices, answers, scores[len(wholes) :], strict=True
    ):
        given = np.asarray([next(log_probs) - before["log_prob"] for _ in texts])
        sizes = np.asarray([max(len(_joined(text).encode()), 1) for text in texts])
        chosen, by_byte = int(given.argmax()), int((given / sizes).argmax())
        right.append(chosen == answer)
        right_by_byte.append(by_byte == answer)
        predictions.append(
            {
                "context": record["context"],
                "choices": texts,
                "answer": answer,
                "chosen": chosen,
                "chosen_length_normalised": by_byte,
                "log_probs": given.tolist(),
            }
        )
    return HarnessResult(
        "multiple_choice",
        [
            mean("accuracy, length-normalised", right_by_byte, note="log p over UTF-8 bytes"),
            mean("accuracy", right, note="log p"),
        ],
        predictions,
    )


def _joined(choice: str) -> str:
    return choice if choice[:1].isspace() else " " + choice


def _choices(record: Record) -> tuple[list[str], int]:
    """The texts, and the number of the right one."""
    choices: Any = record["choices"]
    names: list[str] = []
    if isinstance(choices, Mapping):
        choices, names = choices.get("text"), list(map(str, choices.get("label") or []))
    if (
        not isinstance(choices, list | tuple)
        or len(choices) < 2
        or not all(isinstance(choice, str) for choice in choices)
    ):
        raise ValueError(
            f"{record.where}: choices must be a list of at least two texts; received "
            f"{record['choices']!r}"
        )
    answer = str(record["answer"])
    if not names and answer in string.ascii_uppercase:
        names = list(string.ascii_uppercase[: len(choices)])
    if answer in names:
        return list(choices), names.index(answer)
    if answer.isdecimal() and int(answer) < len(choices):
        return list(choices), int(answer)
    if list(choices).count(answer) == 1:
        return list(choices), choices.index(answer)
    raise ValueError(
        f"{record.where}: answer must be the number of the right choice, 0 to {len(choices) - 1}, "
        f"its letter, or the choice itself; received {answer!r}"
    )
