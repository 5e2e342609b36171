"""Question answering: find the span of a context with the answer (Rajpurkar et al., 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfllm.data.preparing.record_preparation import TRUNCATED, UnknownInTraining
from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.splits import RowBatch
from tfllm.models.heads.span_classifier import SpanClassifier
from tfllm.tasks.encoder.encoder_task import EncoderTask, example_with_special_tokens, readable
from tfllm.tasks.encoder.question_answerer import (
    OVERLAP,
    SPECIAL_TOKENS,
    QuestionAnswerer,
    question_room,
)
from tfllm.tasks.encoder.windows import windows_of
from tfllm.tasks.record_task import Example

if TYPE_CHECKING:
    from tfllm.evaluation.metrics import Metric
    from tfllm.tokenizers.base import Tokenizer


class QuestionAnswering(EncoderTask):
    """Find the span of a context that answers a question, or that there is no answer.

    A long context is divided into windows that overlap by half; in windows that do not contain the
    whole answer, the model learns that there is none. A question may take half of the available
    tokens; the rest of it is cut off, and counted.

    Records: `question`, `context`, `answer` and `answer_start` (position of its first character in
    the context; by default its first occurrence); or `answers` as `{"text": [...], "answer_start":
    [...]}` or a list of `{"text", "answer_start"}`, of which the first is learned and each counts
    as correct. A missing or empty answer means that the context does not contain it. Files in
    SQuAD's format are supported (`tfllm.data.reading.squad`).
    """

    name = "question_answering"
    head_class = SpanClassifier
    text_model_class = QuestionAnswerer
    columns: ClassVar[Mapping[str, Column]] = {
        "question": Column(aliases=("query",)),
        "context": Column(aliases=("passage", "paragraph", "document")),
        "answer": Column(aliases=("answer_text",), required=False, is_input=False),
        "answer_start": Column(
            aliases=("start", "begin"), kind="json", required=False, is_input=False
        ),
        "answers": Column(kind="json", required=False, is_input=False),
    }
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **EncoderTask.training_defaults,
        "sequence_length": 256,
    }

    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """Whether questions may be unanswerable, as in some training records.

        Raises:
            ValueError: no record has an answer.
        """
        found, first = readable(records, answers_of)
        if not any(found):
            raise ValueError(
                f"none of the {len(records):,} training records has an answer in its context"
                f"{first}; give records with 'answer' and 'answer_start'"
            )
        return {"may_be_unanswered": not all(found)}

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """An example per window: `token_ids`, `token_type_ids`, and `span` [2], the first and last
        token of the answer, or 0 and 0 if the window does not contain it."""
        answers = answers_of(record)
        if not answers and not information["may_be_unanswered"]:
            raise UnknownInTraining("all training records have an answer, but this one has none")
        asked = tokenizer.encode(record["question"], parse_special=False, add_special=False)
        most = question_room(sequence_length)
        num_truncated, asked = max(len(asked) - most, 0), asked[:most]
        ids, offsets = tokenizer.encode_with_offsets(
            record["context"], parse_special=False, add_special=False
        )
        first = last = -1
        if answers:
            text, begin = answers[0]
            end = begin + len(text)
            covered = [i for i, (b, e) in enumerate(offsets) if b < end and e > begin]
            if not covered:
                raise ValueError(f"there is no word in the answer {text!r:.80}")
            first, last = covered[0], covered[-1]
        room = sequence_length - SPECIAL_TOKENS - len(asked)
        examples = []
        for window in windows_of(len(ids), room, room // OVERLAP):
            shift = len(asked) + 2 - window.begin
            holds = window.begin <= first and last < window.end
            example = example_with_special_tokens(tokenizer, asked, ids[window.begin : window.end])
            span = [first + shift, last + shift] if holds else [0, 0]
            example["span"] = np.array(span, np.int32)
            example[TRUNCATED] = np.array([num_truncated], np.int32)
            examples.append(example)
        if answers and not any(example["span"].any() for example in examples):
            raise ValueError(
                f"no window of {sequence_length} tokens can hold the {last - first + 1} tokens of "
                f"the answer {text!r:.80}; raise sequence_length, or shorten the answer"
            )
        return examples

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """A batch for `SpanClassifier`: labels int32 [B, 2], weights [B, 2]."""
        spans = np.array([example["span"] for example in examples], np.int32).reshape(-1, 2)
        return RowBatch(
            self.batch_inputs(examples, sequence_length),
            spans,
            np.ones(spans.shape, np.float32),
        )

    def metrics(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Metric]:
        """F1 and exact match with the best of several answers, as in SQuAD's evaluation."""
        from tfllm.evaluation.text_metrics import exact_match, token_f1

        references = [[text for text, _ in answers_of(r)] or [""] for r in records]
        predicted = [None if p.get("error") else p["answer"] for p in predictions]
        return [token_f1(references, predicted), exact_match(references, predicted)]

    def remarks(self, records: Sequence[Record], served: Any) -> list[str]:
        """A remark on questions without an answer, if the model always gives one."""
        unanswered = sum(not answers_of(record) for record in records)
        if not unanswered or served.may_be_unanswered:
            return []
        return [
            f"{unanswered:,} of {len(records):,} questions have no answer; the model was only "
            "trained on questions with an answer, and always gives one"
        ]


def answers_of(record: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The answers of a record, each with the position of its first character; empty if none.

    Raises:
        ValueError: an answer is not in the context, or not at its `answer_start`.
    """
    context = record["context"]
    given: Any = record.get("answers")
    pairs: list[tuple[Any, Any]]
    if record.get("answer"):
        pairs = [(record["answer"], record.get("answer_start"))]
    elif given is None:
        pairs = []
    elif isinstance(given, dict) and isinstance(given.get("text"), list):
        texts, starts = given["text"], given.get("answer_start", [None] * len(given["text"]))
        if not isinstance(starts, list) or len(starts) != len(texts):
            raise ValueError(
                f"'answers' must have equally many text and answer_start; received {given!r:.100}"
            )
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(given, list) and all(isinstance(a, dict) for a in given):
        pairs = [(a.get("text"), a.get("answer_start")) for a in given]
    else:
        raise ValueError(
            "'answers' must be a list of objects with text and answer_start; received "
            f"{given!r:.100}"
        )
    answers = []
    for text, start in pairs:
        if not isinstance(text, str):
            raise ValueError(f"an answer must be a text; received {text!r:.80}")
        if not text.strip():
            continue
        if start is None:
            start = context.find(text)
            if start < 0:
                raise ValueError(f"the answer {text!r:.80} is not in the context")
        if not isinstance(start, int) or isinstance(start, bool):
            raise ValueError(f"answer_start must be a whole number; received {start!r:.80}")
        if start < 0 or context[start : start + len(text)] != text:
            there = context[max(start, 0) : max(start, 0) + len(text)]
            raise ValueError(
                f"the answer {text!r:.80} is not at answer_start {start}: the text there is "
                f"{there!r:.80}"
            )
        answers.append((text, start))
    return answers
