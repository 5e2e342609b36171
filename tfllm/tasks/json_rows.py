"""Write lists of any length as one JSON string per row, in a graph.

The width of a signature's output must not depend on the rows: TensorFlow Serving joins the parts of
a request that it has split by the shape of the first part, and in a batch of several clients a
padded width would depend on the rows of other clients. Therefore, answers of varying length are
outputs whose name ends in `_json`, with a JSON value in each row that the client parses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_CONTROLS = range(0x20)


def json_strings(text: tf.Tensor) -> tf.Tensor:
    """Encode texts as JSON strings, in quotes.

    Args:
        text: texts, string of any shape, valid UTF-8.

    Returns:
        JSON strings, of the same shape.
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
    """Encode numbers as JSON, float32 without loss of precision; NaN as `NaN`, as servers do.

    Args:
        values: int32 or float32 of any shape; infinite values become the largest finite ones.

    Returns:
        JSON numbers, string of the same shape.
    """
    if not values.dtype.is_floating:
        return tf.strings.as_string(values)
    finite = tf.clip_by_value(values, values.dtype.min, values.dtype.max)
    written = tf.strings.as_string(finite, precision=9, shortest=True)
    return tf.where(tf.math.is_nan(values), "NaN", written)


def json_lists(items: tf.Tensor, rows: tf.Tensor, num_rows: tf.Tensor) -> tf.Tensor:
    """Join JSON values to a JSON list for each row.

    Args:
        items: JSON values, string [N].
        rows: row of each value, ascending, int [N].
        num_rows: number of rows, scalar.

    Returns:
        JSON lists, string [num_rows]; "[]" for a row without values.
    """
    joined = tf.strings.unsorted_segment_join(items, rows, num_rows, separator=", ")
    return tf.strings.join(["[", joined, "]"])


def json_objects(fields: Sequence[tuple[str, tf.Tensor]]) -> tf.Tensor:
    """Join fields to JSON objects.

    Args:
        fields: names of fields, and their values as JSON, string [N].

    Returns:
        JSON objects, string [N].
    """
    parts: list[Any] = []
    for number, (name, value) in enumerate(fields):
        parts += [f"{', ' if number else '{'}{json.dumps(name)}: ", value]
    return tf.strings.join([*parts, "}"])
