"""The keys and values of earlier tokens, kept while a text is generated.

Shape letters: B batch, T query time, S cache positions, K key/value heads, D head size.
"""

from __future__ import annotations

import tensorflow as tf


def is_empty(cache_index: int | tf.Tensor) -> bool:
    """Whether nothing is in a cache yet, as is known while the graph is made."""
    return isinstance(cache_index, int) and cache_index == 0


def cache_length(cache: tf.Tensor) -> int | tf.Tensor:
    """How many positions a cache `[2, B, K, S, D]` has."""
    return cache.shape[3] if cache.shape[3] is not None else tf.shape(cache)[3]


def write_cache(
    cache: tf.Tensor, cache_index: int | tf.Tensor, key: tf.Tensor, value: tf.Tensor
) -> tf.Tensor:
    """The cache with new keys and values written at its positions from `cache_index` on.

    Every row writes the same positions, whatever its length: a row's own place is in its rotary
    angles or position vectors, and positions of the cache that are not its own are masked. So one
    slice is written, in place.

    Args:
        cache: `[2, B, K, S, D]`.
        cache_index: the first position that is written, int32 scalar.
        key: `[B, K, T, D]`.
        value: `[B, K, T, D]`.

    Returns:
        the cache's shape and dtype.
    """
    time = key.shape[2] if key.shape[2] is not None else tf.shape(key)[2]
    # The masks are bits of the axes whose begin and end are not read: all but the fourth.
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
