"""Spans of texts, cut out in a graph."""

from __future__ import annotations

import tensorflow as tf

_MOST_MARKS = 8


def cut_out(text: tf.Tensor, begins: tf.Tensor, ends: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The words of spans, and where they end with the marks that belong to their last character.

    A tokenizer that leaves accents out says that "Cafe" with a combining accent behind it ends
    before the accent.

    Args:
        text: string [S], valid UTF-8: of each span its text.
        begins, ends: int32 [S], characters.

    Returns:
        string [S], and int32 [S].
    """
    after = tf.strings.substr(text, ends, tf.fill(tf.shape(ends), _MOST_MARKS), unit="UTF8_CHAR")
    marks = tf.strings.regex_replace(after, r"(?s)\P{M}.*", "")
    ends += tf.strings.length(marks, unit="UTF8_CHAR")
    return tf.strings.substr(text, begins, ends - begins, unit="UTF8_CHAR"), ends
