"""Which keys a query may see, as what is added to the scores.

Shape letters: B batch, T query time, S key time.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def attention_bias(
    *,
    query_time: int | tf.Tensor,
    causal: bool = True,
    sliding_window: int | None = None,
    padding_mask: tf.Tensor | None = None,
    segment_ids: tf.Tensor | None = None,
    dtype: Any = tf.float32,
) -> tf.Tensor | None:
    """What is added to the scores: 0 where a query may see a key, else a large negative number.

    Args:
        query_time: T.
        causal: a query sees keys at its own place and before.
        sliding_window: how many tokens a query sees, its own the last of them; padding does not
            count.
        padding_mask: bool `[B, S]`, true for keys that are tokens.
        segment_ids: int `[B, T]`; tokens see only their own segment.
        dtype: of the result.

    Returns:
        `[1 or B, 1, T, S]`, or None where every query sees every key.
    """
    allowed = None
    if causal:
        index = tf.range(query_time)
        allowed = (index[:, tf.newaxis] >= index)[tf.newaxis]
    if segment_ids is not None:
        same = segment_ids[:, :, tf.newaxis] == segment_ids[:, tf.newaxis, :]
        allowed = same if allowed is None else allowed & same
    if padding_mask is not None:
        keys = tf.cast(padding_mask, tf.bool)[:, tf.newaxis, :]
        allowed = keys if allowed is None else allowed & keys
    if sliding_window is not None:
        number = _numbered(query_time, padding_mask)
        near = number[:, :, tf.newaxis] - number[:, tf.newaxis, :] < sliding_window
        allowed = near if allowed is None else allowed & near
    return None if allowed is None else bias_of(allowed, dtype)[:, tf.newaxis]


def cached_attention_bias(
    *,
    query_time: int | tf.Tensor,
    slot: int | tf.Tensor,
    length: int | tf.Tensor,
    causal: bool = True,
    sliding_window: int | None = None,
    padding_mask: tf.Tensor | None = None,
    dtype: Any = tf.float32,
) -> tf.Tensor:
    """`attention_bias` for T queries whose keys are written to a cache from `slot` on.

    Args:
        query_time: T.
        slot: the first query's own place in the cache.
        length: S, the cache's positions.
        causal: a query sees keys at its own place and before; else all that are written.
        sliding_window: how many tokens a query sees, its own the last of them; padding does not
            count.
        padding_mask: bool `[B, S]`, true for keys that are tokens.
        dtype: of the result.

    Returns:
        `[1 or B, 1, T, S]`.
    """
    last = slot + (tf.range(query_time) if causal else tf.fill([query_time], query_time - 1))
    allowed = (tf.range(length) <= last[:, tf.newaxis])[tf.newaxis]
    if padding_mask is not None:
        allowed &= tf.cast(padding_mask, tf.bool)[:, tf.newaxis, :]
    if sliding_window is not None:
        number = _numbered(length, padding_mask)
        queries = number[:, slot : slot + query_time, tf.newaxis]
        allowed &= queries - number[:, tf.newaxis, :] < sliding_window
    return bias_of(allowed, dtype)[:, tf.newaxis]


def _numbered(length: int | tf.Tensor, padding_mask: tf.Tensor | None) -> tf.Tensor:
    """Each place's number among the tokens of its row, int32 `[1 or B, length]`."""
    if padding_mask is None:
        return tf.range(length)[tf.newaxis]
    return tf.cumsum(tf.cast(padding_mask, tf.int32), axis=1)


def bias_of(allowed: tf.Tensor, dtype: Any) -> tf.Tensor:
    """True to 0 and false to a number that softmax turns into 0, finite so that no row is NaN."""
    dtype = tf.as_dtype(dtype)
    never = -6e4 if dtype == tf.float16 else -1e9
    return tf.where(allowed, tf.zeros([], dtype), tf.constant(never, dtype))
