"""Text model that answers questions with spans of a context."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfllm.models.heads.span_classifier import SpanClassifier
from tfllm.tasks.encoder.encoder_inputs import blank_error, inputs_with_special_tokens
from tfllm.tasks.encoder.encoder_text_model import EncoderTextModel
from tfllm.tasks.encoder.text_spans import cut_out
from tfllm.tasks.encoder.windows import in_chunks, tokens_of, windows_in_graph
from tfllm.tasks.text_model import text_function
from tfllm.tokenizers.graph.ragged_rows import first_of_rows

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

MAX_ANSWER_TOKENS = 64
SPECIAL_TOKENS = 3
"""number of special tokens in [CLS] question [SEP] context [SEP]"""
OVERLAP = 2
"""windows of the context overlap by one half"""
_NOTHING = -1e9


def question_room(sequence_length: int) -> int:
    """Maximum number of tokens of a question."""
    return (sequence_length - SPECIAL_TOKENS) // 2


class QuestionAnswerer(EncoderTextModel):
    """Text model that answers questions with spans of a context.

    The signature `serving_default` takes `question` and `context`, string [B], and returns `answer`
    string [B] (empty if the context does not contain the answer, which is only possible if the
    model was trained with such questions), `begin` and `end` int32 [B] (in characters of the
    context, with `end` exclusive; -1 without an answer), `score` float32 [B] (probability of the
    answer), `truncated_tokens` int32 [B] (number of tokens cut off the question) and `error` string
    [B] ("", or that question or context is empty).

    A context of any length is read in windows. In each window, the best span is compared with "no
    answer"; the answer comes from the window with the largest difference.

    Args:
        model: a span classifier.
        tokenizer: tokenizer of the model.
        information: information of the task: `may_be_unanswered`.
    """

    task_name = "question_answering"

    def __init__(
        self, model: SpanClassifier, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> None:
        super().__init__(model, tokenizer, information)
        self.may_be_unanswered = bool(information.get("may_be_unanswered", True))

    @functools.cached_property
    def signatures(self) -> dict[str, Any]:
        """`serving_default`."""
        return {"serving_default": text_function(self._answers, "question", "context")}

    def ask(self, question: str, context: str) -> dict[str, Any]:
        """The answer to one question: `{"answer", "score", "begin", "end", ...}`."""
        return self.predict([{"question": question, "context": context}])[0]

    # ------------------------------------------------------------------ in the graph

    def _answers(self, question: tf.Tensor, context: tf.Tensor) -> dict[str, tf.Tensor]:
        context = tf.strings.unicode_transcode(context, "UTF-8", "UTF-8", errors="replace")
        asked = self._graph.tokenize(question, parse_special=False, add_special=False)
        ids, begins, ends = self._graph.tokenize_with_offsets(
            context, parse_special=False, add_special=False
        )
        asked_lengths = tf.cast(asked.row_lengths(), tf.int32)
        kept = tf.minimum(asked_lengths, question_room(self.sequence_length))
        asked = first_of_rows(asked, kept)
        room = self.sequence_length - SPECIAL_TOKENS - kept
        windows = windows_in_graph(tf.cast(ids.row_lengths(), tf.int32), room, room // OVERLAP)
        number = tf.size(windows.rows)
        shown = tokens_of(windows, ids)
        inputs = inputs_with_special_tokens(self.tokenizer, tf.gather(asked, windows.rows), shown)
        places = tf.range(tf.shape(inputs["token_ids"])[1])
        context_begin = (tf.gather(kept, windows.rows) + 2)[:, tf.newaxis]
        context_end = context_begin + tf.cast(shown.row_lengths(), tf.int32)[:, tf.newaxis]
        of_context = (places >= context_begin) & (places < context_end)

        vector = tf.TensorSpec([None], tf.float32)
        integers = tf.TensorSpec([None], tf.int32)
        margin, score, unanswered, first, last = in_chunks(
            self._best_spans,
            [*inputs.values(), of_context],
            [vector, vector, vector, integers, integers],
        )

        # For each text, the window with the largest margin over "no answer"; the first of equals.
        batch = tf.size(question)
        most = tf.math.unsorted_segment_max(margin, windows.rows, batch)
        is_best = tf.equal(margin, tf.gather(most, windows.rows))
        numbers = tf.where(is_best, tf.range(number), number)
        best = tf.math.unsorted_segment_min(numbers, windows.rows, batch)
        shift = tf.gather(windows.begins - context_begin[:, 0], best)
        row_begin = tf.cast(ids.row_splits[:-1], tf.int32) + shift
        error = blank_error(question, "question")
        error = tf.where(error == "", blank_error(context, "context"), error)
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
        """For each window: log-probability of the best span minus that of no answer; probability of
        the span, and of no answer; first and last token of the span (0 if there is none)."""
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
    """values[places] where `valid` is true, otherwise -1."""
    padded = tf.concat([[-1], values], 0)
    return tf.gather(padded, tf.where(valid, places + 1, 0))
