"""Scaled dot-product attention: softmax(Q Kᵀ / √D) V.

Shape letters: B batch, T query time, S key time, N query heads, K key/value heads,
G = N / K query heads that share a key/value head, D head size.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tfllm.layers.attention_in_chunks import attention_in_chunks
from tfllm.layers.dropout import dropout
from tfllm.layers.masks import AttentionMask
from tfllm.layers.shapes import shape_of


def dot_product_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    bias: tf.Tensor | AttentionMask | None = None,
    *,
    scaled: bool = True,
    dropout_rate: float = 0.0,
    seed: tf.Tensor | None = None,
    return_weights: bool = False,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """softmax(Q Kᵀ / √D + bias) V, with query heads in groups that share a key/value head.

    Args:
        query: float `[B, N, T, D]`.
        key: float `[B, K, S, D]`; K divides N.
        value: float `[B, K, S, D]`.
        bias: `[1 or B, 1 or N, T or 1, S]`, added to the scores; or a mask. Rows that are long (see
            `AttentionMask.is_long`) are computed in chunks, unless the weights are returned.
        scaled: divide the scores by √D. (T5 does not, but has smaller initial weights.)
        dropout_rate: fraction of the attention weights that is dropped; needs `seed`.
        seed: seed of dropout, int32 `[2]`.
        return_weights: also return the attention weights.

    Returns:
        float `[B, N, T, D]`, and the weights `[B, N, T, S]` or None.
    """
    mask = bias if isinstance(bias, AttentionMask) else None
    if mask is None and query.shape[2] is not None:
        mask = AttentionMask(query.shape[2], causal=False, bias=bias)
    if mask is not None and mask.is_long and not return_weights:
        if scaled:
            query = query * _scale(query, None)
        return attention_in_chunks(query, key, value, mask, dropout_rate, seed), None
    if isinstance(bias, AttentionMask):
        bias = bias.whole()
    num_heads, head_dim = query.shape[1], query.shape[3]
    num_kv_heads = key.shape[1]
    group = num_heads // num_kv_heads
    batch, _, time, _ = shape_of(query)
    if scaled:
        query = query * _scale(query, bias)
    if group > 1:  # concatenate the queries of a group along the time axis
        grouped_time = group * time if query.shape[2] is not None else -1
        if grouped_time == -1 and isinstance(batch, int) and batch == -1:
            batch = tf.shape(query)[0]
        query = tf.reshape(query, [batch, num_kv_heads, grouped_time, head_dim])
    scores = tf.matmul(query, key, transpose_b=True)
    if bias is not None and group > 1:
        bias = _grouped(bias, num_kv_heads, group)
    if bias is not None:
        scores += bias
    weights = _softmax(scores, few=isinstance(time, int) and time == 1)
    if dropout_rate and seed is not None:
        weights = dropout(weights, dropout_rate, seed)
    mixed = tf.matmul(weights, value)
    if group > 1:
        mixed = tf.reshape(mixed, [batch, num_heads, time, head_dim])
    if not return_weights:
        return mixed, None
    return mixed, tf.reshape(weights, [*tf.unstack(tf.shape(mixed))[:3], tf.shape(key)[2]])


def _grouped(bias: tf.Tensor, num_kv_heads: int, group: int) -> tf.Tensor:
    """The bias for queries whose groups are concatenated along the time axis."""
    if bias.shape[1] == 1:
        return bias if bias.shape[2] == 1 else tf.tile(bias, [1, 1, group, 1])
    rows, _, time, length = tf.unstack(tf.shape(bias))
    return tf.reshape(bias, [rows, num_kv_heads, group * time, length])


def _scale(query: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """1 / √D, as a scalar or as a vector `[D]`."""
    factor, head_dim = 1 / math.sqrt(query.shape[3]), query.shape[3]
    if bias is None or bias.shape[0] != 1 or query.shape[0] == 1:
        return tf.constant(factor, query.dtype)
    # On CPUs TensorFlow fuses the matrix product with a scalar factor before it and a sum after it
    # if no gradient needs the intermediate results: in evaluation, and in the forward pass of a
    # rematerialized block. The fused kernel takes hundreds of times as long if the rows of a batch
    # share one bias. A vector is not fused.
    return tf.constant([factor] * head_dim, query.dtype)


def _softmax(scores: tf.Tensor, *, few: bool) -> tf.Tensor:
    """Softmax over the last axis; for `few` scores (in a decoding step) by plain operations.

    On CPUs TensorFlow's kernel takes 50 us or more to start, longer than six plain ones together.
    """
    if few:
        exact = tf.cast(scores, tf.float32)
        powers = tf.exp(exact - tf.reduce_max(exact, axis=-1, keepdims=True))
        return tf.cast(powers / tf.reduce_sum(powers, axis=-1, keepdims=True), scores.dtype)
    # float16 has too small a range for a sum of exponentials; bfloat16 kernels sum in float32.
    weights = tf.nn.softmax(tf.cast(scores, tf.float32) if scores.dtype == tf.float16 else scores)
    return tf.cast(weights, scores.dtype)
