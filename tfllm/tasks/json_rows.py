"""Lists of any length as one JSON string a row, written in a graph.

An output of a signature has the same width whatever the rows are: TensorFlow Serving joins the
parts of a request that it split by the shape of the first part, and in a batch of several clients a
padded width would depend on the others' rows. Where the length of an answer varies, an output whose
name ends in `_json` holds a JSON value in each row; the client reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_CONTROLS = range(0x20)


def json_strings(text: tf.Tensor) -> tf.Tensor:
    """Texts as JSON writes them, in quotes.

    Args:
        text: string, any shape, valid UTF-8.

    Returns:
        string, its shape.
    """
    text = tf.strings.regex_replace(text, r'(["\\])', r"\\\1")

    def without_controls() -> tf.Tensor:
        found = text
        for code in _CONTROLS:
            found = tf.strings.regex_replace(found, f"\\x{code:02x}", f"\\\\u{code:04x}")
        return found

    has_controls = tf.reduce_any(tf.strings.regex_full_match(text, r"(?s).*[\x00-\x1f].*"))
    return tf.strings.join(['"', tf.cond(has_controls, without_controls, lambda: text), '"'])


def json_numbers(values: tf.Tensor) -> tf.Tensor:
    """Numbers as JSON writes them, float32 with all its digits; NaN as `NaN`, as the server does.

    Args:
        values: int32 or float32, any shape. Infinite ones become the largest finite ones.

    Returns:
        string, its shape.
    """
    if not values.dtype.is_floating:
        return tf.strings.as_string(values)
    finite = tf.clip_by_value(values, values.dtype.min, values.dtype.max)
    written = tf.strings.as_string(finite, precision=9, shortest=True)
    return tf.where(tf.math.is_nan(values), "NaN", written)


def json_lists(items: tf.Tensor, rows: tf.Tensor, num_rows: tf.Tensor) -> tf.Tensor:
    """Values that are JSON as a list for each row.

    Args:
        items: string [N].
        rows: int [N], ascending: which row each belongs to.
        num_rows: scalar.

    Returns:
        string [num_rows]; "[]" where a row has none.
    """
    joined = tf.strings.unsorted_segment_join(items, rows, num_rows, separator=", ")
    return tf.strings.join(["[", joined, "]"])


def json_objects(fields: Sequence[tuple[str, tf.Tensor]]) -> tf.Tensor:
    """JSON objects, one for each place.

    Args:
        fields: names, and their values as JSON, string [N].

    Returns:
        string [N].
    """
    parts: list[Any] = []
    for number, (name, value) in enumerate(fields):
        parts += [f"{', ' if number else '{'}{json.dumps(name)}: ", value]
    return tf.strings.join([*parts, "}"])
