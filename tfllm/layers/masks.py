"""Which keys a query attends to, as a bias that is added to the scores.

Shape letters: B batch, T query time, S key time.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfllm.layers.key_value_cache import is_empty


def attention_bias(
    *,
    query_time: int | tf.Tensor,
    causal: bool = True,
    sliding_window: int | None = None,
    padding_mask: tf.Tensor | None = None,
    segment_ids: tf.Tensor | None = None,
    cache_index: int | tf.Tensor = 0,
    cache_length: int | tf.Tensor | None = None,
    dtype: Any = tf.float32,
) -> tf.Tensor | None:
    """0 where a query attends to a key, else a large negative number.

    Args:
        query_time: T.
        causal: a query attends to keys at its own position and before; else to all of them.
        sliding_window: number of tokens that a query attends to, its own the last of them; padding
            is not counted. Defaults to None, no limit.
        padding_mask: bool `[B, S]`, true for keys that are tokens.
        segment_ids: int `[B, T]`; tokens attend to their own segment only. Not with a cache that
            holds tokens.
        cache_index: position in the cache of the first query, int32 scalar; the Python number 0:
            the cache is empty, and keys are the queries' own, S = T.
        cache_length: the cache's positions, S, of which those before cache_index + T are written.
            Needed unless cache_index is the Python number 0.
        dtype: dtype of the result.

    Returns:
        `[1 or B, 1, T, S]`, or None where every query attends to every key.
    """
    allowed = None
    if is_empty(cache_index):
        cache_length = query_time
        if causal:
            index = tf.range(query_time)
            allowed = (index[:, tf.newaxis] >= index)[tf.newaxis]
    else:
        if segment_ids is not None:
            raise ValueError(
                "segment_ids are not known of the tokens in a cache; give a bias instead"
            )
        assert cache_length is not None
        steps = tf.range(query_time) if causal else tf.fill([query_time], query_time - 1)
        allowed = (tf.range(cache_length) <= (cache_index + steps)[:, tf.newaxis])[tf.newaxis]
    if segment_ids is not None:
        same = segment_ids[:, :, tf.newaxis] == segment_ids[:, tf.newaxis, :]
        allowed = same if allowed is None else allowed & same
    if padding_mask is not None:
        keys = tf.cast(padding_mask, tf.bool)[:, tf.newaxis, :]
        allowed = keys if allowed is None else allowed & keys
    if sliding_window is not None:
        number = _numbered(cache_length, padding_mask)
        queries = number[:, cache_index : cache_index + query_time, tf.newaxis]
        near = queries - number[:, tf.newaxis, :] < sliding_window
        allowed = near if allowed is None else allowed & near
    return None if allowed is None else bias_of(allowed, dtype)[:, tf.newaxis]


def shared_bias(*, dtype: Any = tf.float32, **options: Any) -> tf.Tensor:
    """`attention_bias` for all layers of a model: zeros `[1, 1, 1, 1]` instead of None.

    A layer that is given no bias would compute its own from its other arguments.
    """
    bias = attention_bias(dtype=dtype, **options)
    return tf.zeros([1, 1, 1, 1], dtype) if bias is None else bias


def _numbered(length: int | tf.Tensor, padding_mask: tf.Tensor | None) -> tf.Tensor:
    """Each position's number among the tokens of its row, int32 `[1 or B, length]`."""
    if padding_mask is None:
        return tf.range(length)[tf.newaxis]
    return tf.cumsum(tf.cast(padding_mask, tf.int32), axis=1)


def bias_of(allowed: tf.Tensor, dtype: Any) -> tf.Tensor:
    """True to 0 and false to a number that softmax turns into 0, finite so that no row is NaN."""
    dtype = tf.as_dtype(dtype)
    never = -6e4 if dtype == tf.float16 else -1e9
    return tf.where(allowed, tf.zeros([], dtype), tf.constant(never, dtype))
