"""Question answering: the words of a context that answer a question (Rajpurkar et al., 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.data.preparing.record_preparation import TRUNCATED, UnknownInTraining
from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.splits import RowBatch
from tfllm.models.heads.span_classifier import SpanClassifier
from tfllm.tasks.encoder.encoder_inputs import first_tokens, is_blank
from tfllm.tasks.encoder.encoder_task import EncoderTask
from tfllm.tasks.encoder.text_spans import cut_out
from tfllm.tasks.encoder.windows import in_chunks, tokens_of, windows_in_graph, windows_of
from tfllm.tasks.record_task import Example
from tfllm.tasks.text_model import TextModel, plain

if TYPE_CHECKING:
    from tfllm.evaluation.measures import Measure
    from tfllm.tokenizers.base import Tokenizer

MAX_ANSWER_TOKENS = 64
_SPECIAL = 3
"""[CLS] question [SEP] context [SEP]"""
_OVERLAP = 2
"""half of a window of the context is shared with the next"""
_NOTHING = -1e9


class QuestionAnswering(EncoderTask):
    """Find the span of a context that answers a question, or that there is none.

    A context of more tokens than there is room for becomes windows that overlap by half; in those
    that do not hold the whole answer the model learns that there is none. A question may take half
    of the room; what is beyond is cut off, and counted.

    Records: `question`, `context`, `answer` and `answer_start` (its first character in the context;
    without it the answer's first occurrence); or `answers` as `{"text": [...], "answer_start":
    [...]}` or a list of `{"text", "answer_start"}`, of which the first is learned and each counts
    as right. No answer, or an empty one, means that the context does not say. SQuAD's own files are
    read as they are (`tfllm.data.reading.squad`).
    """

    name = "question_answering"
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
        """Whether a context need not have the answer: some record has none.

        Raises:
            ValueError: no record has an answer.
        """
        known = unanswered = 0
        first = ""
        for record in records:
            try:
                if answers_of(record):
                    known += 1
                else:
                    unanswered += 1
            except ValueError as error:  # `examples` says where each stands
                first = first or f" ({record.where}: {error})"
        if not known:
            raise ValueError(
                f"none of the {len(records):,} training records has an answer in its context"
                f"{first}; give records with 'answer' and 'answer_start'"
            )
        return {"may_be_unanswered": unanswered > 0}

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """A window each: `token_ids`, `token_type_ids`, and `span` [2], its first and last token;
        0 twice where the window does not hold it."""
        given: Any = tokenizer
        answers = answers_of(record)
        if not answers and not information["may_be_unanswered"]:
            raise UnknownInTraining("the training records all have an answer and this one has none")
        asked = given.encode(record["question"], parse_special=False, add_special=False)
        most = question_room(sequence_length)
        num_cut, asked = max(len(asked) - most, 0), asked[:most]
        ids, offsets = given.encode_with_offsets(
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
        head = [given.cls_token_id, *asked, given.sep_token_id]
        room = sequence_length - _SPECIAL - len(asked)
        examples = []
        for window in windows_of(len(ids), room, room // _OVERLAP):
            inside = ids[window.begin : window.end]
            shift = len(head) - window.begin
            holds = window.begin <= first and last < window.end
            arrays = {
                "token_ids": [*head, *inside, given.sep_token_id],
                "token_type_ids": [0] * len(head) + [1] * (len(inside) + 1),
                "span": [first + shift, last + shift] if holds else [0, 0],
                TRUNCATED: [num_cut],
            }
            examples.append({name: np.array(v, np.int32) for name, v in arrays.items()})
        if answers and not any(example["span"].any() for example in examples):
            raise ValueError(
                f"no window of {sequence_length} tokens holds the {last - first + 1} tokens of the "
                f"answer {text!r:.80}; raise sequence_length, or give the words that decide"
            )
        return examples

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """As `SpanClassifier` is fitted: labels int32 [B, 2], weights [B, 2]."""
        spans = np.array([example["span"] for example in examples], np.int32).reshape(-1, 2)
        return RowBatch(
            self.batch_inputs(examples, sequence_length),
            spans,
            np.ones(spans.shape, np.float32),
        )

    def head(self, encoder: Any, information: Mapping[str, Any], **options: Any) -> SpanClassifier:
        """A `SpanClassifier`."""
        return SpanClassifier(encoder, **options)

    def text_model(
        self, model: Any, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> QuestionAnswerer:
        """A `QuestionAnswerer`."""
        return QuestionAnswerer(model, tokenizer, information)

    def measures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Measure]:
        """F1 and exact match, as SQuAD's evaluation has them, the best of several answers."""
        from tfllm.evaluation.text_measures import exact_match, token_f1

        references = [[text for text, _ in answers_of(r)] or [""] for r in records]
        predicted = [None if p.get("error") else p["answer"] for p in predictions]
        return [token_f1(references, predicted), exact_match(references, predicted)]

    def remarks(self, records: Sequence[Record], served: Any) -> list[str]:
        """How many questions have no answer, where the model always gives one."""
        unanswered = sum(not answers_of(record) for record in records)
        if not unanswered or served.may_be_unanswered:
            return []
        return [
            f"{unanswered:,} of {len(records):,} questions have no answer; the model was trained "
            "on questions that all have one, and always gives one"
        ]


def question_room(sequence_length: int) -> int:
    """The most tokens of a question."""
    return (sequence_length - _SPECIAL) // 2


def answers_of(record: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The answers of a record, each with the place of its first character; none: unanswered.

    Raises:
        ValueError: an answer does not stand where it is said to, or not in the context at all.
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
                f"'answers' must have as many answer_start as text; received {given!r:.100}"
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
                raise ValueError(f"the answer {text!r:.80} does not stand in the context")
        if not isinstance(start, int) or isinstance(start, bool):
            raise ValueError(f"answer_start must be a whole number; received {start!r:.80}")
        if start < 0 or context[start : start + len(text)] != text:
            there = context[max(start, 0) : max(start, 0) + len(text)]
            raise ValueError(
                f"the answer {text!r:.80} does not stand at answer_start {start}: there is "
                f"{there!r:.80}"
            )
        answers.append((text, start))
    return answers


class QuestionAnswerer(TextModel):
    """A span classifier as a function from questions and contexts to answers.

    Signature `serving_default`: `question` and `context` string [B] to `answer` string [B] ("":
    the context does not say; only where the model was trained with such questions), `begin` and
    `end` int32 [B] (characters of the context, the end exclusive; -1 without an answer), `score`
    float32 [B] (how probable the model finds it, between 0 and 1), `truncated_tokens` int32 [B] (of
    the question) and `error` string [B] ("", or that question or context is empty).

    A context of any length is read whole, in windows. In each the best span is compared with "no
    answer" there; the window where it stands out most gives the answer.

    Args:
        model: a span classifier.
        tokenizer: of the model.
        information: `may_be_unanswered`.
    """

    task_name = "question_answering"

    def __init__(
        self, model: SpanClassifier, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> None:
        super().__init__(name="question_answerer")
        self.model = model
        self.tokenizer = tokenizer
        self.information = dict(information)
        self.may_be_unanswered = bool(information.get("may_be_unanswered", True))
        context = model.config.max_sequence_length
        self.sequence_length = min(int(information.get("sequence_length", context)), context)
        self._graph: Any = tokenizer.graph()
        self._functions: dict[str, Any] = {}

    @property
    def signatures(self) -> dict[str, Any]:
        """`serving_default`."""
        if not self._functions:
            specs = [tf.TensorSpec([None], tf.string, name) for name in ("question", "context")]
            self._functions = {
                "serving_default": tf.function(
                    self._answers, input_signature=specs, autograph=False
                )
            }
        return self._functions

    @property
    def served_state(self) -> dict[str, Any]:
        """The weights and the tokenizer."""
        return {"weights": self.model.weights, "tokenizer": self._graph}

    def with_dtype(self, dtype: str) -> QuestionAnswerer:
        """The same with another dtype, or itself."""
        if dtype == self.model.dtype_policy.name:
            return self
        return type(self)(self.model.with_dtype(dtype), self.tokenizer, self.information)

    def ask(self, question: str, context: str) -> dict[str, Any]:
        """The answer to one question: `{"answer", "score", "begin", "end", ...}`."""
        return self.predict([{"question": question, "context": context}])[0]

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """As the outputs are."""
        return {name: plain(value) for name, value in row.items()}

    # ------------------------------------------------------------------ in the graph

    def _answers(self, question: tf.Tensor, context: tf.Tensor) -> dict[str, tf.Tensor]:
        given: Any = self.tokenizer
        context = tf.strings.unicode_transcode(context, "UTF-8", "UTF-8", errors="replace")
        asked = self._graph.tokenize(question, parse_special=False, add_special=False)
        ids, begins, ends = self._graph.tokenize_with_offsets(
            context, parse_special=False, add_special=False
        )
        asked_lengths = tf.cast(asked.row_lengths(), tf.int32)
        kept = tf.minimum(asked_lengths, question_room(self.sequence_length))
        asked = first_tokens(asked, kept).with_row_splits_dtype(tf.int64)
        room = self.sequence_length - _SPECIAL - kept
        windows = windows_in_graph(tf.cast(ids.row_lengths(), tf.int32), room, room // _OVERLAP)
        number = tf.size(windows.rows)
        begin = tf.fill([number, 1], tf.constant(given.cls_token_id, tf.int32))
        end = tf.fill([number, 1], tf.constant(given.sep_token_id, tf.int32))
        shown = tf.concat(
            [begin, tf.gather(asked, windows.rows), end, tokens_of(windows, ids), end], 1
        )
        lengths = tf.cast(shown.row_lengths(), tf.int32)[:, tf.newaxis]
        token_ids = shown.to_tensor()
        places = tf.range(tf.shape(token_ids)[1])
        mask = places < lengths
        context_begin = (tf.gather(kept, windows.rows) + 2)[:, tf.newaxis]
        types = tf.cast(mask & (places >= context_begin), tf.int32)
        of_context = (places >= context_begin) & (places < lengths - 1)

        vector = tf.TensorSpec([None], tf.float32)
        integers = tf.TensorSpec([None], tf.int32)
        margin, score, unanswered, first, last = in_chunks(
            self._best_spans,
            [token_ids, types, mask, of_context],
            [vector, vector, vector, integers, integers],
        )

        # The window of each text where the answer stands out most; of equal ones the first.
        batch = tf.size(question)
        most = tf.math.unsorted_segment_max(margin, windows.rows, batch)
        is_best = tf.equal(margin, tf.gather(most, windows.rows))
        numbers = tf.where(is_best, tf.range(number), number)
        best = tf.math.unsorted_segment_min(numbers, windows.rows, batch)
        shift = tf.gather(windows.begins - context_begin[:, 0], best)
        row_begin = tf.cast(ids.row_splits[:-1], tf.int32) + shift
        error = tf.where(is_blank(context), "the context is empty", "")
        error = tf.where(is_blank(question), "the question is empty", error)
        found = (error == "") & (tf.gather(last, best) > 0)
        if self.may_be_unanswered:
            found &= most > 0
        begin, end = (
            _at(offsets.flat_values, row_begin + tf.gather(token, best), found)
            for offsets, token in ((begins, first), (ends, last))
        )
        answer, answer_end = cut_out(context, tf.where(found, begin, 0), tf.where(found, end, 0))
        least = tf.math.unsorted_segment_min(unanswered, windows.rows, batch)
        score = tf.where(found, tf.gather(score, best), least)
        return {
            "answer": tf.where(found, answer, ""),
            "begin": begin,
            "end": tf.where(found, answer_end, -1),
            "score": tf.where(error == "", score, 0.0),
            "truncated_tokens": asked_lengths - kept,
            "error": error,
        }

    def _best_spans(
        self, token_ids: tf.Tensor, types: tf.Tensor, mask: tf.Tensor, of_context: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Of each window: how much likelier the best span is than none (a logarithm), the
        probability of that span, and of none; the span's first and last token (0: there is no
        token)."""
        inputs = {"token_ids": token_ids, "token_type_ids": types, "padding_mask": mask}
        logits = tf.cast(self.model(inputs, training=False), tf.float32)
        logs = tf.nn.log_softmax(tf.where(mask[:, :, tf.newaxis], logits, _NOTHING), 1)
        none = logs[:, 0, 0] + logs[:, 0, 1]
        starts = tf.where(of_context, logs[:, :, 0], _NOTHING)
        ends = tf.where(of_context, logs[:, :, 1], _NOTHING)
        width = tf.shape(token_ids)[1]
        places = tf.range(width)
        length = places - places[:, tf.newaxis]
        together = starts[:, :, tf.newaxis] + ends[:, tf.newaxis]
        fits = (length >= 0) & (length < MAX_ANSWER_TOKENS)
        together = tf.where(fits, together, 2 * _NOTHING)
        flat = tf.reshape(together, [-1, width * width])
        at = tf.argmax(flat, 1, tf.int32)
        best = tf.reduce_max(flat, 1)
        is_there = best > _NOTHING
        first, last = (tf.where(is_there, x, 0) for x in (at // width, at % width))
        return best - none, tf.exp(best), tf.exp(none), first, last


def _at(values: tf.Tensor, places: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """values[places] where it is valid, else -1."""
    padded = tf.concat([[-1], values], 0)
    return tf.gather(padded, tf.where(valid, places + 1, 0))
