"""Base class of the tokenizer graphs whose pieces include the spaces of a text."""

from __future__ import annotations

import tensorflow as tf

from tfllm.tokenizers.graph.tokenizer_graph import TokenizerGraph
from tfllm.tokenizers.leading_space import SPACE, LeadingSpace


class SpacedTextGraph(TokenizerGraph):
    """A tokenizer whose pieces include spaces, and which may add one before a text."""

    _leading: LeadingSpace

    def _joined(self, parts: tf.Tensor) -> tf.Tensor:
        if self._leading == "keep":
            return tf.strings.reduce_join(parts, axis=1)
        seen = tf.cast(tf.strings.length(parts) > 0, tf.int32)
        if self._leading == "token":
            first = (seen > 0) & tf.equal(tf.cumsum(seen, axis=1), 1)
            without = tf.strings.regex_replace(parts, " ", "")
            return tf.strings.reduce_join(tf.where(first, without, parts), axis=1)
        if self._leading == "each":
            other = tf.cast(tf.not_equal(parts, " "), tf.int32) * seen
            parts = tf.where(tf.cumsum(other, axis=1) > 0, parts, "")
        return tf.strings.regex_replace(tf.strings.reduce_join(parts, axis=1), r"\A ", "")


def with_space(text: tf.Tensor, rows: tf.Tensor, space: str, *, first: bool) -> tf.Tensor:
    """Put a space before each stretch that is not empty and does not begin with one.

    Args:
        text: string [S].
        rows: int64 [B + 1], where each text's stretches start and end.
        space: The space to add.
        first: Whether to add it only before the first stretch of each text.
    """
    begins = tf.strings.regex_full_match(text, rf"(?s)[{space}{SPACE}].*")
    bare = (tf.strings.length(text) > 0) & ~begins
    if first:
        starts = tf.boolean_mask(rows[:-1], rows[1:] > rows[:-1])
        marks = tf.fill(tf.shape(starts), True)
        bare &= tf.scatter_nd(starts[:, tf.newaxis], marks, tf.shape(text, tf.int64))
    return tf.where(bare, space + text, text)
