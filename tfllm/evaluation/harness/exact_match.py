"""Generate answers, extract them from the text by a rule, and compare them (as for GSM8K)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import regex

from tfllm.data.reading.table_records import Column, Source
from tfllm.evaluation.harness.harness import (
    HarnessResult,
    in_batches,
    read_records,
    truncation_note,
)
from tfllm.evaluation.harness.prompts import continuations, room_for_answers
from tfllm.evaluation.metrics import mean
from tfllm.evaluation.text_metrics import normalized

COLUMNS = {
    "question": Column(("prompt", "input", "problem")),
    "answer": Column(("solution", "target", "output", "expected"), kind="label"),
}
"""columns of a record"""
TEMPLATE = "Question: {question}\nAnswer:"
STOPS = ("\nQuestion:", "\n\n\n")


def exact_match(
    model: Any,
    data: Source | Sequence[Mapping[str, Any]],
    *,
    limit: int = 0,
    batch_size: int = 16,
    extract: str = "number",
    num_shots: int = 0,
    template: str = TEMPLATE,
    stop: Sequence[str] = STOPS,
    chat: bool = False,
    max_new_tokens: int | None = None,
    **options: Any,
) -> HarnessResult:
    """Let a model answer questions, greedily by default, and count the correct answers.

    A prompt that leaves no room for `max_new_tokens` in the model's context is truncated at its
    beginning, as in lm-evaluation-harness.

    Args:
        model: object with the method `generate`; with `chat`, one with `reply` (`Chat`) or `chat`
            (a `Client`).
        data: files with `COLUMNS`, or records. An answer may contain its derivation, which the rule
            ignores and the shots show.
        limit: number of records, after those used as shots; 0: all. Defaults to 0.
        batch_size: questions per batch. Defaults to 16.
        extract: rule that extracts the answer from the generated text and from the record's answer:
            "number" (the number after "####", otherwise the last number; compared as numbers),
            "line" (the first line that is not empty, normalized as for SQuAD), or "regex:PATTERN"
            (the first group of the last match, or the whole match). Defaults to "number".
        num_shots: number of records at the start that are shown with their answers before each
            question, and are not evaluated. Defaults to 0.
        template: template of a question, up to its answer.
        stop: strings that end an answer.
        chat: whether to send each question, with its shots, as a message to which the model
            replies. Defaults to False.
        max_new_tokens: maximum tokens of an answer. Defaults to 256, or half the model's context if
            that is less.
        options: other fields of `GenerationConfig`.

    Returns:
        The result.

    Raises:
        ValueError: a record is not of this form (its answer does not fit the rule), or
            `max_new_tokens` is the model's context or more.
    """
    if "{question}" not in template:
        raise ValueError(f"template must contain {{question}}; received {template!r}")
    if num_shots < 0:
        raise ValueError(f"num_shots must be at least 0; received {num_shots}")
    rule = extraction(extract)
    records = read_records(data, COLUMNS, limit + num_shots if limit else 0)
    shots, records = records[:num_shots], records[num_shots:]
    if not records:
        raise ValueError(f"there must be more records than num_shots; received {len(shots)}")
    expected = []
    for record in records:
        expected.append(rule(str(record["answer"])))
        if expected[-1] is None:
            raise ValueError(
                f"{record.where}: the answer must fit the rule {extract!r}; received "
                f"{record['answer']!r}"
            )
    if max_new_tokens is None:
        max_new_tokens = room_for_answers(model)
    settings = {"temperature": 0.0, "max_new_tokens": max_new_tokens, **options}
    settings["stop"] = list(stop)

    def ask(question: str) -> str:
        return template.replace("{question}", question)

    examples = [(ask(str(shot["question"])), str(shot["answer"])) for shot in shots]
    questions = [ask(str(record["question"])) for record in records]
    num_truncated = 0
    if chat:

        def answer(some: list[str]) -> list[str]:
            return replies(model, [_conversation(examples, one) for one in some], settings)

        texts = in_batches(questions, answer, batch_size)
    else:
        before = "".join(f"{question} {given}\n\n" for question, given in examples)
        prompts = [before + question for question in questions]
        texts, num_truncated = continuations(model, prompts, settings, batch_size)
    given = [rule(text) for text in texts]
    right = [e == g for e, g in zip(expected, given, strict=True)]
    predictions = [
        {"question": r["question"], "answer": e, "text": t, "extracted": g, "right": ok}
        for r, e, t, g, ok in zip(records, expected, texts, given, right, strict=True)
    ]
    shown = f"{num_shots} shots, {'chat' if chat else 'completion'}, rule {extract}"
    return HarnessResult(
        "exact_match",
        [mean("exact_match", right, note=shown)],
        predictions,
        truncation_note(num_truncated, len(records)),
    )


def replies(model: Any, conversations: list[Any], options: Mapping[str, Any]) -> list[str]:
    """The replies of a `Chat`, or of a served one through its `Client`, to conversations."""
    if hasattr(model, "reply"):
        return list(model.reply(conversations, **options))
    if hasattr(model, "chat"):
        return [model.chat(conversation, **options) for conversation in conversations]
    raise ValueError(
        f"chat needs a model with a chat template; received {type(model).__name__}, which has "
        "neither reply nor chat: leave out chat"
    )


def extraction(rule: str) -> Callable[[str], float | str | None]:
    """The function that extracts the answer from a text, and returns None if there is none.

    Args:
        rule: "number", "line" or "regex:PATTERN".

    Raises:
        ValueError: there is no such rule.
    """
    if rule == "number":
        return _number
    if rule == "line":
        return _line
    kind, colon, pattern = rule.partition(":")
    if kind == "regex" and colon:
        try:
            compiled = regex.compile(pattern)
        except regex.error as error:
            raise ValueError(
                f"extract must be a regular expression; {pattern!r}: {error}"
            ) from None

        def last(text: str) -> str | None:
            found = list(compiled.finditer(text))
            return found[-1].group(1 if compiled.groups else 0).strip() if found else None

        return last
    raise ValueError(f'extract must be "number", "line" or "regex:PATTERN"; received {rule!r}')


_NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?|-?\.\d+"


def _number(text: str) -> float | None:
    marked = regex.search(r"####\s*(" + _NUMBER + ")", text)
    found = [marked.group(1)] if marked else regex.findall(_NUMBER, text)
    if not found:
        return None
    value = float(found[-1].replace(",", "").replace("$", ""))
    return value if math.isfinite(value) else None


def _line(text: str) -> str | None:
    return next((normalized(line) for line in text.split("\n") if line.strip()), None)


def _conversation(examples: Sequence[tuple[str, str]], question: str) -> list[dict[str, str]]:
    messages = []
    for asked, answered in examples:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answered})
    return [*messages, {"role": "user", "content": question}]
