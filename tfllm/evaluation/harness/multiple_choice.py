"""Choose between continuations of a context by their log-likelihood (as for HellaSwag)."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import regex

from tfllm.data.reading.table_records import Column, Record, Source
from tfllm.evaluation.harness.harness import (
    HarnessResult,
    ScoresText,
    read_records,
    truncation_note,
)
from tfllm.evaluation.harness.log_likelihood import log_likelihoods
from tfllm.evaluation.metrics import mean

COLUMNS = {
    "context": Column(("ctx", "question", "prompt", "query", "goal")),
    "choices": Column(("endings", "options"), kind="json"),
    "answer": Column(("label", "gold", "expected_index", "answerKey", "expected"), kind="label"),
    "activity_label": Column(required=False),
    "ctx_a": Column(required=False),
    "ctx_b": Column(required=False),
}
"""columns of a record; the last three are those of HellaSwag (`_hellaswag`)"""


def multiple_choice(
    model: ScoresText,
    data: Source | Sequence[Mapping[str, Any]],
    *,
    limit: int = 0,
    batch_size: int = 16,
    template: str = "{context}",
    delimiter: str = " ",
) -> HarnessResult:
    """Choose the text that the model finds most likely after the context.

    As in lm-evaluation-harness (`log_likelihood` describes the protocol), the score of a choice is
    the log-likelihood of its tokens after the context. The first token after an empty context is
    predicted from the prefix token. Texts that are too long for the model are truncated at their
    beginning.

    `acc` is the fraction of records whose correct choice has the largest log-likelihood. `acc_norm`
    divides the log-likelihood by the number of characters of the choice, and `acc_bytes` by its
    UTF-8 bytes, so that short choices are not preferred (mostly reported for HellaSwag).

    Args:
        model: model that scores texts.
        data: files with `COLUMNS`, or records. `choices` is a list of texts, or an object with the
            lists "text" and "label", which are their names; `answer` is the index of the correct
            choice, from 0, or its name, or its letter A to Z.
        limit: maximum number of records; 0: all. Defaults to 0.
        batch_size: texts per batch. Defaults to 16.
        template: template of the text before the choice, such as "Question: {context}\\nAnswer:".
            Defaults to "{context}".
        delimiter: text between context and choice (`target_delimiter` in lm-evaluation-harness); ""
            if the choices begin with a space. Defaults to a space.

    Returns:
        The result.

    Raises:
        ValueError: a record is not of this form.
    """
    if "{context}" not in template:
        raise ValueError(f"template must contain {{context}}; received {template!r}")
    records = read_records(data, COLUMNS, limit, empty_inputs=True)
    pairs, choices, answers = [], [], []
    for record in records:
        texts, answer = _choices(record)
        context = str(record["context"])
        original = texts
        if record.get("activity_label"):
            context, texts = _hellaswag(record, context, texts)
        asked = template.replace("{context}", context)
        pairs += [(asked, delimiter + text) for text in texts]
        choices.append((original, texts))
        answers.append(answer)
    given = iter(log_likelihoods(model, pairs, batch_size=batch_size))
    right: dict[str, list[bool]] = {"acc": [], "acc_norm": [], "acc_bytes": []}
    predictions = []
    num_truncated = 0
    for record, (original, texts), answer in zip(records, choices, answers, strict=True):
        found = [next(given) for _ in texts]
        num_truncated += any(one.num_truncated for one in found)
        log_probs = np.asarray([one.log_prob for one in found])
        sizes = {
            "acc": [1] * len(texts),
            "acc_norm": [len(text) for text in texts],
            "acc_bytes": [len(text.encode()) for text in texts],
        }
        chosen = {
            name: int((log_probs / np.maximum(size, 1)).argmax()) for name, size in sizes.items()
        }
        for name, choice in chosen.items():
            right[name].append(choice == answer)
        predictions.append(
            {
                "context": record["context"],
                "choices": original,
                "answer": answer,
                "chosen": chosen["acc"],
                "chosen_length_normalised": chosen["acc_norm"],
                "log_probs": log_probs.tolist(),
            }
        )
    notes = {
        "acc_norm": "log p over characters",
        "acc": "log p",
        "acc_bytes": "log p over UTF-8 bytes",
    }
    return HarnessResult(
        "multiple_choice",
        [mean(name, right[name], note=note) for name, note in notes.items()],
        predictions,
        truncation_note(num_truncated, len(records)),
    )


def _hellaswag(record: Record, context: str, endings: list[str]) -> tuple[str, list[str]]:
    """The context with its activity, and the endings, without WikiHow's markup.

    This is the preprocessing of lm-evaluation-harness.
    """
    first, second = record.get("ctx_a"), record.get("ctx_b")
    if first is not None and second is not None:
        context = f"{first} {str(second).capitalize()}"

    def plain(text: str) -> str:
        text = text.strip().replace(" [title]", ". ")
        return regex.sub(r"\[.*?\]", "", text).replace("  ", " ")

    return plain(f"{record['activity_label']}: {context}"), [plain(ending) for ending in endings]


def _choices(record: Record) -> tuple[list[str], int]:
    """The texts, and the index of the correct one."""
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
        f"{record.where}: answer must be the index of the correct choice, 0 to "
        f"{len(choices) - 1}, its letter, or the choice itself; received {answer!r}"
    )
