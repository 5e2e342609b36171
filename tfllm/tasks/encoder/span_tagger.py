"""Text model that finds labelled spans in texts."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfllm.models.heads.token_classifier import TokenClassifier
from tfllm.tasks.encoder.encoder_inputs import blank_error, inputs_with_special_tokens
from tfllm.tasks.encoder.encoder_text_model import EncoderTextModel
from tfllm.tasks.encoder.span_labels import tags_of
from tfllm.tasks.encoder.text_spans import cut_out
from tfllm.tasks.encoder.windows import in_chunks, tokens_of, windows_in_graph
from tfllm.tasks.json_rows import json_lists, json_numbers, json_objects, json_strings
from tfllm.tasks.text_model import plain, text_function
from tfllm.tokenizers.graph.ragged_rows import flagged
from tfllm.tokenizers.kinds.word_piece import WordPiece

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

OVERLAP = 4
"""windows overlap by a quarter"""


class SpanTagger(EncoderTextModel):
    """Text model that finds labelled spans in texts.

    The signature `serving_default` takes `text`, string [B], and returns `spans_json` string [B],
    in each row a JSON list of objects `{"begin", "end", "label", "text", "score"}` (positions are
    characters of the text, with `end` exclusive; the score is the mean probability of the span's
    tags), `num_spans` int32 [B] and `error` string [B] ("", or that the text is empty).

    A text of any length is read in windows.

    Args:
        model: a token classifier of the tags O, B- and I-.
        tokenizer: tokenizer of the model.
        information: information of the task: `labels`.
    """

    task_name = "tagging"

    warmup_texts = ("The President of the United States", "")

    def __init__(
        self, model: TokenClassifier, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> None:
        super().__init__(model, tokenizer, information)
        self.labels = tuple(information["labels"])
        if len(tags_of(self.labels)) != model.num_labels:
            raise ValueError(
                f"{len(self.labels)} labels give {len(tags_of(self.labels))} tags (O, and B- and "
                f"I- for each), but the model has {model.num_labels}"
            )
        names = [json.dumps(label, ensure_ascii=False) for label in ("", *self.labels)]
        self._label_names = tf.constant(names)
        """the labels as JSON strings"""
        continues = np.zeros(tokenizer.vocab_size, bool)
        continues[list(continuing_ids(tokenizer))] = True
        with tf.device("/CPU:0"):
            self._continues = tf.Variable(continues, trainable=False, name="continues")

    @functools.cached_property
    def signatures(self) -> dict[str, Any]:
        """`serving_default`."""
        return {"serving_default": text_function(self._spans, "text")}

    @property
    def served_state(self) -> dict[str, Any]:
        """The weights, the tokenizer, and which tokens continue a word."""
        return {**super().served_state, "continues": self._continues}

    def tag(self, texts: str | Sequence[str]) -> Any:
        """Find the spans in texts.

        Args:
            texts: one text or several.

        Returns:
            A list of `{"begin", "end", "label", "text", "score"}` for a single text, or a list of
            such lists; it is empty for an empty text.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        found = [answer["spans"] for answer in self.predict([{"text": row} for row in rows])]
        return found[0] if isinstance(texts, str) else found

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The spans as objects."""
        return {"spans": json.loads(plain(row["spans_json"])), "error": plain(row["error"])}

    # ------------------------------------------------------------------ in the graph

    def _spans(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        ids, begins, ends = self._graph.tokenize_with_offsets(
            text, parse_special=False, add_special=False
        )
        tags, scores = self._token_tags(ids)
        rows = tf.cast(ids.value_rowids(), tf.int32)
        begins, ends = begins.values, ends.values

        # Words: tagged by their first token, up to the end of their last one.
        is_word = ~tf.gather(self._continues, ids.values)
        word = tf.cumsum(tf.cast(is_word, tf.int32)) - 1
        num_words = tf.reduce_sum(tf.cast(is_word, tf.int32))
        ends = tf.math.unsorted_segment_max(ends, word, num_words)
        tags, scores, rows, begins = flagged(is_word, tags, scores, rows, begins)

        # Spans: a word whose tag is not O continues the span before it, or begins a new one.
        label = (tags + 1) // 2  # 0 is no label
        is_first = (tags % 2 == 1) & (tags > 0)
        edge = tf.fill([tf.minimum(tf.size(tags), 1)], True)
        other = (label[1:] != label[:-1]) | (rows[1:] != rows[:-1])
        starts = (label > 0) & (is_first | tf.concat([edge, other], 0))
        inside = label > 0
        span = tf.boolean_mask(tf.cumsum(tf.cast(starts, tf.int32)) - 1, inside)
        num_spans = tf.reduce_sum(tf.cast(starts, tf.int32))
        ends = tf.math.unsorted_segment_max(tf.boolean_mask(ends, inside), span, num_spans)
        scores = tf.math.unsorted_segment_mean(tf.boolean_mask(scores, inside), span, num_spans)
        begins, rows, label = flagged(starts, begins, rows, label)
        texts, ends = cut_out(tf.gather(text, rows), begins, ends)

        spans = json_objects(
            [
                ("begin", json_numbers(begins)),
                ("end", json_numbers(ends)),
                ("label", tf.gather(self._label_names, label)),
                ("text", json_strings(texts)),
                ("score", json_numbers(scores)),
            ]
        )
        batch = tf.size(text)
        return {
            "spans_json": json_lists(spans, rows, batch),
            "num_spans": tf.math.bincount(rows, minlength=batch, maxlength=batch),
            "error": blank_error(text),
        }

    def _token_tags(self, ids: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Most probable tags of the tokens of all texts, int32 [N], and their probabilities,
        float32 [N]."""
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        room = tf.fill(tf.shape(lengths), tf.constant(room_of(self.sequence_length)))
        windows = windows_in_graph(lengths, room, room // OVERLAP)
        rows = inputs_with_special_tokens(self.tokenizer, tokens_of(windows, ids))

        def tags(*values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inputs = dict(zip(rows, values, strict=True))
            probabilities = tf.nn.softmax(self.model(inputs, training=False))
            likeliest = tf.argmax(probabilities, -1, tf.int32)
            return likeliest, tf.reduce_max(probabilities, -1)

        found, scores = in_chunks(
            tags,
            list(rows.values()),
            [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.float32)],
        )
        token = tf.range(tf.shape(rows["token_ids"])[1]) - 1 + windows.begins[:, tf.newaxis]
        owned = (token >= windows.own_begins[:, tf.newaxis]) & (
            token < windows.own_ends[:, tf.newaxis]
        )
        return tf.boolean_mask(found, owned), tf.boolean_mask(scores, owned)


def room_of(sequence_length: int) -> int:
    """Number of tokens in a window of a text, without [CLS] and [SEP]."""
    return sequence_length - 2


def continuing_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of tokens that continue a word.

    Raises:
        ValueError: the tokenizer is not a WordPiece.
    """
    if not isinstance(tokenizer, WordPiece):
        raise ValueError(
            "tagging needs a WordPiece tokenizer, which marks where words begin; received "
            f"{type(tokenizer).__name__}"
        )
    return tokenizer.continuing_ids
