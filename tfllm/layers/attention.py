"""Multi-head attention: softmax(Q Kᵀ / √D) V.

Shape letters: B batch, T query time, S key time, E width, N query heads, K key/value heads,
G = N / K query heads that share a key/value head, D head size.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.dropout import dropout, next_seed
from tfllm.layers.positions import rotary_tables, rotate
from tfllm.layers.projection import Projection, forked
from tfllm.layers.shapes import shape_of


def attention_bias(
    *,
    query_time: int | tf.Tensor,
    causal: bool = True,
    padding_mask: tf.Tensor | None = None,
    segment_ids: tf.Tensor | None = None,
    dtype: Any = tf.float32,
) -> tf.Tensor | None:
    """What is added to the scores: 0 where a query may see a key, else a large negative number.

    Args:
        query_time: T.
        causal: a query sees keys at its own place and before.
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
    return None if allowed is None else bias_of(allowed, dtype)[:, tf.newaxis]


def cached_attention_bias(
    *,
    query_time: int | tf.Tensor,
    slot: int | tf.Tensor,
    length: int | tf.Tensor,
    causal: bool = True,
    padding_mask: tf.Tensor | None = None,
    dtype: Any = tf.float32,
) -> tf.Tensor:
    """`attention_bias` for T queries whose keys are written to a cache from `slot` on.

    Args:
        query_time: T.
        slot: the first query's own place in the cache.
        length: S, the cache's positions.
        causal: a query sees keys at its own place and before; else all that are written.
        padding_mask: bool `[B, S]`, true for keys that are tokens.
        dtype: of the result.

    Returns:
        `[1 or B, 1, T, S]`.
    """
    last = slot + (tf.range(query_time) if causal else tf.fill([query_time], query_time - 1))
    allowed = (tf.range(length) <= last[:, tf.newaxis])[tf.newaxis]
    if padding_mask is not None:
        allowed &= tf.cast(padding_mask, tf.bool)[:, tf.newaxis, :]
    return bias_of(allowed, dtype)[:, tf.newaxis]


def bias_of(allowed: tf.Tensor, dtype: Any) -> tf.Tensor:
    """True to 0 and false to a number that softmax turns into 0, finite so that no row is NaN."""
    dtype = tf.as_dtype(dtype)
    never = -6e4 if dtype == tf.float16 else -1e9
    return tf.where(allowed, tf.zeros([], dtype), tf.constant(never, dtype))


def dot_product_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    bias: tf.Tensor | None = None,
    *,
    dropout_rate: float = 0.0,
    seed: tf.Tensor | None = None,
    return_weights: bool = False,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """softmax(Q Kᵀ / √D + bias) V, with query heads in groups that share a key/value head.

    Args:
        query: float `[B, N, T, D]`.
        key: float `[B, K, S, D]`; K divides N.
        value: float `[B, K, S, D]`.
        bias: `[1 or B, 1, T or 1, S]`, added to the scores.
        dropout_rate: share of the weights dropped; needs `seed`.
        seed: int32 `[2]`.
        return_weights: also return the attention weights.

    Returns:
        float `[B, N, T, D]`, and the weights `[B, N, T, S]` or None.
    """
    num_heads, head_dim = query.shape[1], query.shape[3]
    num_kv_heads = key.shape[1]
    group = num_heads // num_kv_heads
    batch, _, time, _ = shape_of(query)
    query = query * tf.constant(1 / math.sqrt(head_dim), query.dtype)
    if group > 1:  # the queries of a group stand behind one another, as if they were more time
        grouped_time = group * time if query.shape[2] is not None else -1
        if grouped_time == -1 and isinstance(batch, int) and batch == -1:
            batch = tf.shape(query)[0]
        query = tf.reshape(query, [batch, num_kv_heads, grouped_time, head_dim])
    scores = tf.matmul(query, key, transpose_b=True)
    if bias is not None and group > 1 and bias.shape[2] != 1:
        bias = tf.tile(bias, [1, 1, group, 1])
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


def _softmax(scores: tf.Tensor, *, few: bool) -> tf.Tensor:
    """Softmax over the last axis; `few` scores (a decoding step's) in plain operations.

    TensorFlow's kernel on CPUs takes 50 us and more to start, which six plain ones together do not.
    """
    if few:
        exact = tf.cast(scores, tf.float32)
        powers = tf.exp(exact - tf.reduce_max(exact, axis=-1, keepdims=True))
        return tf.cast(powers / tf.reduce_sum(powers, axis=-1, keepdims=True), scores.dtype)
    # float16 has too few exponents for a sum of exponentials; bfloat16 kernels sum in float32.
    weights = tf.nn.softmax(tf.cast(scores, tf.float32) if scores.dtype == tf.float16 else scores)
    return tf.cast(weights, scores.dtype)


@keras.saving.register_keras_serializable("tfllm")
class MultiHeadAttention(keras.layers.Layer):
    """Multi-head attention (Vaswani et al., 2017).

    Query heads may share key/value heads in groups (Ainslie et al., 2023). Queries, keys and
    values come from one product, kernel rows in the order query heads, key heads, value heads.
    With `context` they come from two: queries from x, keys and values from the context.

    Args:
        num_heads: number of query heads N.
        head_dim: size of a head; default: the input's width / num_heads.
        num_kv_heads: number of key/value heads, a divisor of num_heads; default num_heads.
        causal: tokens see only themselves and what stands before; not used with a context.
        cross_attention: attend to `context` instead of x.
        rope_theta: base of the rotary positions; None for no rotary positions.
        use_bias: biases in the projections.
        dropout: share of the attention weights dropped while training.
        kernel_initializer: of the query, key and value projections.
        output_initializer: of the output projection.
        seed: of dropout.

    Call arguments:
        x: float `[B, T, E]`; or `[B, E]`, one token a row (decoding: fewer operations).
        context: float `[B, S, C]`, with cross_attention.
        padding_mask: bool `[B, S]`, true for tokens, false for padding.
        segment_ids: int `[B, T]`; tokens see only their own segment.
        bias: `[1 or B, 1, T, S]`, added to the scores; then the causal, padding and segment masks
            are taken to be in it. A model makes it once for all its layers.
        rotary: what `rotary_tables` gave; default: positions slot, slot + 1, ...
        cache: `[2, B, K, S, D]`, this layer's keys and values of earlier tokens, with room for S.
        slot: index of the first position of the cache to write: an int32 scalar, or the Python
            number 0 while the cache is empty. Then the new tokens see one another only, and a
            prompt costs its own length, not S. With any other slot `padding_mask` is about the
            cache's positions, bool `[B, S]`.
        training: whether dropout acts.
        dropout_seed: int32 `[2]`; default: drawn from the layer's own generator.
        return_weights: also return the attention weights.

    Returns:
        float `[B, T, E]`. With a cache: (that, the new cache). With return_weights: (that,
        weights `[B, N, T, S]`).
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int | None = None,
        *,
        num_kv_heads: int | None = None,
        causal: bool = False,
        cross_attention: bool = False,
        rope_theta: float | None = None,
        use_bias: bool = False,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        output_initializer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(
                "num_kv_heads must divide num_heads, both at least 1; "
                f"received num_heads={num_heads}, num_kv_heads={num_kv_heads}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); received {dropout}")
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_kv_heads = num_kv_heads
        self.causal = causal
        self.cross_attention = cross_attention
        self.rope_theta = rope_theta
        self.use_bias = use_bias
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout else None

    def build(self, x_shape: Any, context_shape: Any = None) -> None:
        """Create the projections for inputs `[B, T, E]` (and a context `[B, S, C]`)."""
        width = x_shape[-1]
        if self.head_dim is None:
            if width % self.num_heads:
                raise ValueError(
                    f"the input's width must be divisible by num_heads ({self.num_heads}) when "
                    f"head_dim is not given; received width {width}"
                )
            self._head_dim = width // self.num_heads
        else:
            self._head_dim = self.head_dim
        dim, options = self._head_dim, {"use_bias": self.use_bias, "dtype": self.dtype_policy}
        initializer = self.kernel_initializer

        def projection(name: str, output_dim: int, initializer: Any) -> Projection:
            return Projection(
                output_dim, kernel_initializer=forked(initializer, name), name=name, **options
            )

        if self.cross_attention:
            self.query = projection("query", self.num_heads * dim, initializer)
            self.query.build(x_shape)
            self.key_value = projection("key_value", 2 * self.num_kv_heads * dim, initializer)
            self.key_value.build(context_shape or x_shape)
        else:
            num_projected = self.num_heads + 2 * self.num_kv_heads
            self.query_key_value = projection("query_key_value", num_projected * dim, initializer)
            self.query_key_value.build(x_shape)
        self.output_projection = projection("output", width, self.output_initializer or initializer)
        self.output_projection.build((*x_shape[:-1], self.num_heads * dim))
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        context: tf.Tensor | None = None,
        padding_mask: tf.Tensor | None = None,
        segment_ids: tf.Tensor | None = None,
        bias: tf.Tensor | None = None,
        rotary: tuple[tf.Tensor, tf.Tensor] | None = None,
        cache: tf.Tensor | None = None,
        slot: int | tf.Tensor = 0,
        training: bool | None = None,
        dropout_seed: tf.Tensor | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend."""
        if self.cross_attention != (context is not None):
            raise ValueError(
                "cross_attention needs a context, and only it takes one; received "
                f"cross_attention={self.cross_attention}, context={context}"
            )
        time: int | tf.Tensor = 1
        if x.shape.rank == 3:
            time = x.shape[1] if x.shape[1] is not None else tf.shape(x)[1]
        if bias is None and (cache is None or _is_empty(slot)):
            bias = attention_bias(
                query_time=time,
                causal=self.causal and context is None,
                padding_mask=padding_mask,
                segment_ids=segment_ids,
                dtype=self.compute_dtype,
            )
        elif bias is None:
            assert cache is not None
            if segment_ids is not None:
                raise ValueError(
                    "segment_ids say nothing about the tokens in a cache; give a bias instead"
                )
            bias = cached_attention_bias(
                query_time=time,
                slot=slot,
                length=cache.shape[3] if cache.shape[3] is not None else tf.shape(cache)[3],
                causal=self.causal,
                padding_mask=padding_mask,
                dtype=self.compute_dtype,
            )
        if rotary is None and self.rope_theta is not None and context is None:
            rotary = rotary_tables(
                slot + tf.range(time), self._head_dim, self.rope_theta, self.compute_dtype
            )
        query, key, value = self._heads(x, context, rotary)
        if cache is not None:
            cache = write_cache(cache, slot, key, value)
            if not _is_empty(slot):
                key, value = tf.unstack(cache, num=2)
        rate = self.dropout if training else 0.0
        if rate and dropout_seed is None:
            dropout_seed = next_seed(self.seed_generator)
        mixed, weights = dot_product_attention(
            query,
            key,
            value,
            bias,
            dropout_rate=rate,
            seed=dropout_seed,
            return_weights=return_weights,
        )
        y = self.output_projection(self._merged(mixed, x.shape.rank))
        if cache is not None:
            return y, cache
        return (y, weights) if return_weights else y

    def _heads(self, x: tf.Tensor, context: tf.Tensor | None, rotary: Any) -> list[tf.Tensor]:
        """Query `[B, N, T, D]`, key and value `[B, K, S, D]`, rotated."""
        num, kv = self.num_heads, self.num_kv_heads
        if context is not None:
            query = self._split(self.query(x), num)
            key, value = tf.split(self._split(self.key_value(context), 2 * kv), 2, axis=1)
            return [query, key, value]
        heads = self._split(self.query_key_value(x), num + 2 * kv)
        if rotary is None:
            return tf.split(heads, [num, kv, kv], axis=1)
        query_key, value = tf.split(heads, [num + kv, kv], axis=1)
        query, key = tf.split(rotate(query_key, rotary), [num, kv], axis=1)
        return [query, key, value]

    def _split(self, x: tf.Tensor, heads: int) -> tf.Tensor:
        """`[B, T, heads * D]` to `[B, heads, T, D]`; `[B, heads * D]` is one token a row."""
        if x.shape.rank == 2 or x.shape[1] == 1:  # nothing to transpose
            return tf.reshape(x, [shape_of(x)[0], heads, 1, self._head_dim])
        batch, time, _ = shape_of(x)
        return tf.transpose(tf.reshape(x, [batch, time, heads, self._head_dim]), [0, 2, 1, 3])

    def _merged(self, x: tf.Tensor, rank: int) -> tf.Tensor:
        """`[B, N, T, D]` to `[B, T, N * D]`, or to `[B, N * D]` for rank 2."""
        width = self.num_heads * self._head_dim
        if rank == 2:
            return tf.reshape(x, [-1, width])
        batch, _, time, _ = shape_of(x)
        if x.shape[2] != 1:
            x = tf.transpose(x, [0, 2, 1, 3])
        return tf.reshape(x, [batch, time, width])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "num_kv_heads": self.num_kv_heads,
            "causal": self.causal,
            "cross_attention": self.cross_attention,
            "rope_theta": self.rope_theta,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer)
            if self.output_initializer
            else None,
            "seed": self.seed,
        }


def _is_empty(slot: int | tf.Tensor) -> bool:
    return isinstance(slot, int) and slot == 0


def write_cache(
    cache: tf.Tensor, slot: int | tf.Tensor, key: tf.Tensor, value: tf.Tensor
) -> tf.Tensor:
    """The cache `[2, B, K, S, D]` with new keys and values `[B, K, T, D]` written from `slot` on.

    Every row writes the same slots, whatever its length: a row's place is in its rotary angles or
    position vectors, and slots that are not its own are masked. So one slice is written, in place.
    """
    time = key.shape[2] if key.shape[2] is not None else tf.shape(key)[2]
    # The masks are bits of the axes whose begin and end are not read: all but the fourth.
    written = tf.raw_ops.TensorStridedSliceUpdate(
        input=cache,
        begin=tf.stack([0, 0, 0, slot, 0]),
        end=tf.stack([0, 0, 0, slot + time, 0]),
        strides=[1, 1, 1, 1, 1],
        value=tf.cast(tf.stack([key, value]), cache.dtype),
        begin_mask=0b10111,
        end_mask=0b10111,
    )
    written.set_shape(cache.shape)
    return written
