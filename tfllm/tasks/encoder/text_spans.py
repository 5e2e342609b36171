"""Extract spans from texts, in a graph."""

from __future__ import annotations

import tensorflow as tf

_MOST_MARKS = 8


def cut_out(text: tf.Tensor, begins: tf.Tensor, ends: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Extract spans, extended by the combining marks that follow their last character.

    For a tokenizer that removes accents, "Cafe" with a combining accent ends before the accent.

    Args:
        text: the text of each span, string [S], valid UTF-8.
        begins, ends: positions of characters, int32 [S].

    Returns:
        The texts of the spans, string [S], and their extended ends, int32 [S].
    """
    after = tf.strings.substr(text, ends, tf.fill(tf.shape(ends), _MOST_MARKS), unit="UTF8_CHAR")
    marks = tf.strings.regex_replace(after, r"(?s)\P{M}.*", "")
    ends += tf.strings.length(marks, unit="UTF8_CHAR")
    return tf.strings.substr(text, begins, ends - begins, unit="UTF8_CHAR"), ends
