"""The keys and values of earlier tokens, kept while a text is generated.

Shape letters: B batch, T query time, S cache positions, K key/value heads, D head size.
"""

from __future__ import annotations

import tensorflow as tf


def is_empty(cache_index: int | tf.Tensor) -> bool:
    """Whether a cache is known to be empty when the graph is traced."""
    return isinstance(cache_index, int) and cache_index == 0


def cache_length(cache: tf.Tensor) -> int | tf.Tensor:
    """The number of positions S of a cache `[2, B, K, S, D]`."""
    return cache.shape[3] if cache.shape[3] is not None else tf.shape(cache)[3]


def write_cache(
    cache: tf.Tensor, cache_index: int | tf.Tensor, key: tf.Tensor, value: tf.Tensor
) -> tf.Tensor:
    """Write new keys and values to a cache, at its positions from `cache_index` on.

    All rows are written at the same cache positions, whatever their length: a token's position in
    its row is in the rotary angles or position vectors, and cache positions that a row does not use
    are masked. So a single slice is written, in place.

    Args:
        cache: `[2, B, K, S, D]`.
        cache_index: the first position that is written, int32 scalar.
        key: keys of the new tokens, `[B, K, T, D]`.
        value: values of the new tokens, `[B, K, T, D]`.

    Returns:
        the new cache, of the same shape and dtype.
    """
    time = key.shape[2] if key.shape[2] is not None else tf.shape(key)[2]
    # The masks have a bit for each axis whose begin and end are ignored: all but the fourth.
    written = tf.raw_ops.TensorStridedSliceUpdate(
        input=cache,
        begin=tf.stack([0, 0, 0, cache_index, 0]),
        end=tf.stack([0, 0, 0, cache_index + time, 0]),
        strides=[1, 1, 1, 1, 1],
        value=tf.cast(tf.stack([key, value]), cache.dtype),
        begin_mask=0b10111,
        end_mask=0b10111,
    )
    written.set_shape(cache.shape)
    return written
