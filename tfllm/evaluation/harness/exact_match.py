"""Answers that are generated, cut out of the text by a rule, and compared (GSM8K and its kind)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import regex

from tfllm.data.reading.table_records import Column, Source
from tfllm.evaluation.harness.harness import HarnessResult, cut_note, in_batches, read_records
from tfllm.evaluation.harness.prompts import continuations, room_for_answers
from tfllm.evaluation.measures import mean
from tfllm.evaluation.text_measures import normalized

COLUMNS = {
    "question": Column(("prompt", "input", "problem")),
    "answer": Column(("solution", "target", "output", "expected"), kind="label"),
}
"""of a record"""
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
    """Let a model answer questions, greedily unless told otherwise, and count the right answers.

    Args:
        model: what has `generate`; with `chat`, what has `reply` (`Chat`) or `chat` (a `Client`).
        data: files with `COLUMNS`, or records. The answer may hold its derivation, which the rule
            passes over and the shots show.
        limit: the first so many records after the shots; 0: all.
        batch_size: questions at once.
        extract: the rule that is applied to the text and to the record's answer alike: "number"
            (what follows "####", or else the last number; compared as a number), "line" (the first
            line that is not empty, in SQuAD's normalisation), or "regex:PATTERN" (the last match's
            first group, or all of it).
        num_shots: the first so many records stand before each question with their answers, and are
            not measured.
        template: of a question, up to its answer.
        stop: strings that end an answer.
        chat: each question, with its shots before, is a message to which the model replies.
        max_new_tokens: of an answer; default: 256, or half the model's context if that is less.
        options: other fields of `GenerationConfig`.

    A prompt that leaves no room for `max_new_tokens` in the model's context loses its beginning, as
    in lm-evaluation-harness.

    Raises:
        ValueError: a record is not of this form (its answer does not fit the rule), or
            `max_new_tokens` is the model's context or more.
    """
    if "{question}" not in template:
        raise ValueError(f"template must have {{question}} in it; received {template!r}")
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
    num_cut = 0
    if chat:

        def answer(some: list[str]) -> list[str]:
            return replies(model, [_conversation(examples, one) for one in some], settings)

        texts = in_batches(questions, answer, batch_size)
    else:
        before = "".join(f"{question} {given}\n\n" for question, given in examples)
        prompts = [before + question for question in questions]
        texts, num_cut = continuations(model, prompts, settings, batch_size)
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
        cut_note(num_cut, len(records)),
    )


def replies(model: Any, conversations: list[Any], options: Mapping[str, Any]) -> list[str]:
    """What a `Chat`, or a served one's `Client`, says in each conversation."""
    if hasattr(model, "reply"):
        return list(model.reply(conversations, **options))
    if hasattr(model, "chat"):
        return [model.chat(conversation, **options) for conversation in conversations]
    raise ValueError(
        f"chat needs a model with a chat template; received {type(model).__name__}, which has "
        "neither reply nor chat: leave chat out"
    )


def extraction(rule: str) -> Callable[[str], float | str | None]:
    """From a text to the answer in it; None where there is none.

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
