"""Processing of a batch in micro-batches, one after another, to save memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def added_up(
    function: Callable[..., list[tf.Tensor]],
    data: tuple[Any, tf.Tensor, tf.Tensor],
    count: int,
    zeros: list[tf.Tensor],
) -> list[tf.Tensor]:
    """The sum of a function's results over all micro-batches.

    Args:
        function: called with `(x, y, weights)`; returns float32 sums over the rows.
        data: `(x, y, weights)`, each with the rows first; x may be any structure.
        count: number of micro-batches. If the number of rows is not divisible by it, as in an
            epoch's last batch, micro-batches differ by at most one row, and none is empty.
        zeros: zeros of the shapes of the results.
    """
    if count == 1:
        return function(*data)
    rows = data[1].shape[0]
    if rows is not None and rows % count == 0:
        cut = tf.nest.map_structure(
            lambda t: tf.reshape(t, tf.concat([[count, rows // count], tf.shape(t)[1:]], 0)), data
        )

        def micro_batch(i: tf.Tensor) -> Any:
            return tf.nest.map_structure(
                lambda c, t: tf.ensure_shape(c[i], [rows // count, *t.shape[1:]]), cut, data
            )
    else:
        rows = tf.shape(data[1])[0]
        count = tf.minimum(count, tf.maximum(rows, 1))

        def micro_batch(i: tf.Tensor) -> Any:
            return tf.nest.map_structure(
                lambda t: t[i * rows // count : (i + 1) * rows // count], data
            )

    def body(i: tf.Tensor, *sums: tf.Tensor) -> tuple:
        added = function(*micro_batch(i))
        return (i + 1, *(a + b for a, b in zip(sums, added, strict=True)))

    return list(
        tf.while_loop(
            lambda i, *_: i < count, body, (tf.constant(0), *zeros), parallel_iterations=1
        )[1:]
    )
