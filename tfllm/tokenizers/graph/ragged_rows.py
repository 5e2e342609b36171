"""Rows of different lengths, cut and joined in a graph.

Each `tf.concat`, slice, mask or check of ragged tensors is a hundred ops or more in a graph, which
cost time when it is traced, exported and loaded. These are one or two dozen.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def joined_rows(*parts: tf.RaggedTensor) -> tf.RaggedTensor:
    """The rows of the parts side by side, as of `tf.concat(parts, 1)`.

    Args:
        parts: [B, (T)] of one dtype, with row splits of int64.
    """
    row_splits, values = joined_values(
        [part.row_splits for part in parts], [part.values for part in parts]
    )
    return tf.RaggedTensor.from_row_splits(values, row_splits, validate=False)


def joined_values(
    row_splits: Sequence[tf.Tensor], *columns: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, ...]:
    """As `joined_rows`, of several tensors whose rows have the same lengths.

    Args:
        row_splits: of each part, int64 [B + 1].
        columns: of each tensor, its values in each part, [the part's values].

    Returns:
        int64 [B + 1], the row splits, and the values of each column.
    """
    joined = tf.add_n(list(row_splits))
    begin, places = tf.cast(joined[:-1], tf.int32), []
    for splits in row_splits:
        splits = tf.cast(splits, tf.int32)
        end = begin + splits[1:] - splits[:-1]
        places.append(tf.ragged.range(begin, end).flat_values)
        begin = end
    return joined, *(tf.dynamic_stitch(places, list(column)) for column in columns)


def first_of_rows(ids: tf.RaggedTensor, numbers: tf.Tensor) -> tf.RaggedTensor:
    """The first values of each row.

    Args:
        ids: [B, (T)], with row splits of int64.
        numbers: int32 or int64 [B]: how many, at most as many as there are.
    """
    begin = ids.row_splits[:-1]
    places = tf.ragged.range(begin, begin + tf.cast(numbers, tf.int64))
    return places.with_values(tf.gather(ids.flat_values, places.flat_values))


def flagged(flags: tf.Tensor, *columns: tf.Tensor) -> list[tf.Tensor]:
    """The values of each column whose flag is set, as of `tf.boolean_mask(column, flags)`.

    Args:
        flags: bool [B].
        columns: [B] each.
    """
    places = tf.where(flags)[:, 0]
    return [tf.gather(column, places) for column in columns]


def where_set(values: tf.Tensor, flags: tf.Tensor) -> tf.RaggedTensor:
    """Rows of the one value whose flag is set, or of none.

    Args:
        values: [B].
        flags: bool [B].
    """
    (found,) = flagged(flags, values)
    return tf.RaggedTensor.from_row_lengths(found, tf.cast(flags, tf.int64), validate=False)


def equal_rows(values: Sequence[int], num_rows: tf.Tensor) -> tf.RaggedTensor:
    """The same values in each row, int32 [B, (N)].

    Args:
        values: of a row.
        num_rows: B, an int64 scalar.
    """
    return tf.RaggedTensor.from_row_splits(
        tf.tile(tf.constant(values, tf.int32), tf.expand_dims(num_rows, 0)),
        tf.range(num_rows + 1) * len(values),
        validate=False,
    )
