"""Multi-head attention: softmax(Q Kᵀ / √D) V.

Shape letters: B batch, T query time, S key time, E width, N query heads, K key/value heads,
G = N / K query heads that share a key/value head, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.dropout import dropout, next_seed, shifted
from tfllm.layers.masks import attention_bias, cached_attention_bias
from tfllm.layers.normalization import QueryKeyNorm
from tfllm.layers.positions import rotary_tables, rotate
from tfllm.layers.projection import Projection, forked, quantized_dtype
from tfllm.layers.quantized import int8_policy
from tfllm.layers.shapes import ShapeShown, shape_of


def dot_product_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    bias: tf.Tensor | None = None,
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
        bias: `[1 or B, 1 or N, T or 1, S]`, added to the scores.
        scaled: false: the scores are not divided by √D (T5's initial weights are small instead).
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
    if scaled:
        query = query * _scale(query, bias)
    if group > 1:  # the queries of a group stand behind one another, as if they were more time
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
    """The bias of queries that stand behind one another, group by group."""
    if bias.shape[1] == 1:
        return bias if bias.shape[2] == 1 else tf.tile(bias, [1, 1, group, 1])
    rows, _, time, length = tf.unstack(tf.shape(bias))
    return tf.reshape(bias, [rows, num_kv_heads, group * time, length])


def _scale(query: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """1 / √D: one number, or one for each of the D places."""
    factor, head_dim = 1 / math.sqrt(query.shape[3]), query.shape[3]
    if bias is None or bias.shape[0] != 1 or query.shape[0] == 1:
        return tf.constant(factor, query.dtype)
    # TensorFlow joins the product with a number before it and a sum behind it in one kernel on
    # CPUs, where no gradient needs what lies between: in evaluation, and in the forward pass of a
    # rematerialized block. That kernel takes hundreds of times as long where the rows of a batch
    # share one bias. A vector is not joined.
    return tf.constant([factor] * head_dim, query.dtype)


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
class MultiHeadAttention(ShapeShown, keras.layers.Layer):
    """Multi-head attention (Vaswani et al., 2017).

    Query heads may share key/value heads in groups (Ainslie et al., 2023). Queries, keys and
    values come from one product, kernel rows in the order query heads, key heads, value heads.
    With `context` they come from two: queries from x, keys and values from the context
    (`context_key_value` makes the latter alone, once for all the tokens that are decoded).

    Args:
        num_heads: number of query heads N.
        head_dim: size of a head; default: the input's width / num_heads.
        num_kv_heads: number of key/value heads, a divisor of num_heads; default num_heads.
        causal: tokens see only themselves and what stands before; not used with a context.
        sliding_window: how many tokens a token sees, itself the last of them (Beltagy et al.,
            2020); None: all that the other masks leave. Only with causal.
        cross_attention: attend to `context` instead of x.
        rope_theta: base of the rotary positions; None for no rotary positions.
        rope_scaling: how the rotary frequencies are lowered; see `rotary_frequencies`.
        query_key_norm: RMSNorm of each head's query and key, before they are rotated.
        norm_epsilon: of that norm.
        use_bias: biases in the projections.
        output_bias: a bias in the output projection; default: use_bias.
        scaled: false: the scores are not divided by √D, as in T5 (Raffel et al., 2020); the initial
            weights of the queries are divided instead.
        dropout: share of the attention weights dropped while training.
        kernel_initializer: of the query, key and value projections.
        output_initializer: of the output projection.
        seed: of dropout.

    Call arguments:
        x: float `[B, T, E]`; or `[B, E]`, one token a row (decoding: fewer operations).
        context: float `[B, S, C]`, with cross_attention.
        padding_mask: bool `[B, S]`, true for tokens, false for padding.
        segment_ids: int `[B, T]`; tokens see only their own segment.
        key_value: instead of a context, what `context_key_value` made of it.
        bias: `[1 or B, 1 or N, T, S]`, added to the scores; then the causal, padding and segment
            masks are taken to be in it. A model makes it once for all its layers.
        rotary: what `rotary_tables` gave; default: positions slot, slot + 1, ...
        cache: `[2, B, K, S, D]`, this layer's keys and values of earlier tokens, with room for S.
        slot: index of the first position of the cache to write: an int32 scalar, or the Python
            number 0 while the cache is empty. Then the new tokens see one another only, and a
            prompt costs its own length, not S. With any other slot `padding_mask` is about the
            cache's positions, bool `[B, S]`.
        training: whether dropout acts.
        dropout_seed: int32 `[2]`; default: drawn from the layer's own generator.
        adapter_seed: of the dropout of the projections' adapters, int32 `[2]`; None where nothing
            is dropped.
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
        sliding_window: int | None = None,
        cross_attention: bool = False,
        rope_theta: float | None = None,
        rope_scaling: Mapping[str, Any] | None = None,
        query_key_norm: bool = False,
        norm_epsilon: float = 1e-5,
        use_bias: bool = False,
        output_bias: bool | None = None,
        scaled: bool = True,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        output_initializer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = int8_policy(kwargs.get("dtype"))
        super().__init__(**kwargs)
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(
                "num_kv_heads must divide num_heads, both at least 1; "
                f"received num_heads={num_heads}, num_kv_heads={num_kv_heads}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); received {dropout}")
        if sliding_window is not None and (sliding_window < 1 or not causal):
            raise ValueError(
                "sliding_window must be at least 1, and needs causal=True; "
                f"received sliding_window={sliding_window}, causal={causal}"
            )
        if query_key_norm and cross_attention:
            raise ValueError(
                "query_key_norm is for attention to x itself; "
                "received query_key_norm=True, cross_attention=True"
            )
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_kv_heads = num_kv_heads
        self.causal = causal
        self.sliding_window = sliding_window
        self.cross_attention = cross_attention
        self.rope_theta = rope_theta
        self.rope_scaling = None if rope_scaling is None else dict(rope_scaling)
        self.norm_epsilon = norm_epsilon
        self.use_bias = use_bias
        self.output_bias = output_bias
        self.scaled = scaled
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout else None
        self.query_key_norm = None
        if query_key_norm:
            self.query_key_norm = QueryKeyNorm(
                num_heads, epsilon=norm_epsilon, name="query_key_norm", dtype=self.dtype_policy
            )

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
        dim, initializer = self._head_dim, self.kernel_initializer

        def projection(
            name: str, output_dim: int, initializer: Any, use_bias: bool = self.use_bias
        ) -> Projection:
            return Projection(
                output_dim,
                use_bias=use_bias,
                kernel_initializer=forked(initializer, name),
                name=name,
                dtype=self.dtype_policy,
            )

        if self.cross_attention:
            self.query = projection(
                "query", self.num_heads * dim, self._of_queries(initializer, "query")
            )
            self.query.build(x_shape)
            self.key_value = projection("key_value", 2 * self.num_kv_heads * dim, initializer)
            self.key_value.build(context_shape or x_shape)
        else:
            num_projected = self.num_heads + 2 * self.num_kv_heads
            self.query_key_value = projection(
                "query_key_value",
                num_projected * dim,
                self._of_queries(initializer, "query_key_value"),
            )
            self.query_key_value.build(x_shape)
        self.output_projection = projection(
            "output",
            width,
            self.output_initializer or initializer,
            self.use_bias if self.output_bias is None else self.output_bias,
        )
        self.output_projection.build((*x_shape[:-1], self.num_heads * dim))
        if self.query_key_norm is not None:
            self.query_key_norm.build((None, self.num_heads + self.num_kv_heads, None, dim))
        self.built = True

    def _of_queries(self, initializer: Any, name: str) -> Any:
        """An initializer whose first rows, those of the queries, are smaller by √D if unscaled."""
        if self.scaled:
            return initializer
        rows, factor = self.num_heads * self._head_dim, 1 / math.sqrt(self._head_dim)
        whole = forked(initializer, name)

        def divided(shape: Any, dtype: Any = None) -> tf.Tensor:
            values = tf.convert_to_tensor(whole(shape, dtype=dtype))
            return tf.concat([values[:rows] * tf.cast(factor, values.dtype), values[rows:]], 0)

        return divided

    def context_key_value(
        self, context: tf.Tensor, adapter_seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The keys and the values of a context `[B, S, C]`, each `[B, K, S, D]`."""
        key_value = self.key_value(context, adapter_seed=shifted(adapter_seed, 2))
        key, value = tf.split(self._split(key_value, 2 * self.num_kv_heads), 2, axis=1)
        return key, value

    def call(
        self,
        x: tf.Tensor,
        context: tf.Tensor | None = None,
        padding_mask: tf.Tensor | None = None,
        segment_ids: tf.Tensor | None = None,
        key_value: tuple[tf.Tensor, tf.Tensor] | None = None,
        bias: tf.Tensor | None = None,
        rotary: tuple[tf.Tensor, tf.Tensor] | None = None,
        cache: tf.Tensor | None = None,
        slot: int | tf.Tensor = 0,
        training: bool | None = None,
        dropout_seed: tf.Tensor | None = None,
        adapter_seed: tf.Tensor | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend."""
        across = context is not None or key_value is not None
        if self.cross_attention != across:
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
                causal=self.causal and not across,
                sliding_window=None if across else self.sliding_window,
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
                sliding_window=self.sliding_window,
                padding_mask=padding_mask,
                dtype=self.compute_dtype,
            )
        if rotary is None and self.rope_theta is not None and not across:
            rotary = rotary_tables(
                slot + tf.range(time),
                self._head_dim,
                self.rope_theta,
                self.compute_dtype,
                self.rope_scaling,
            )
        query, key, value = self._heads(x, context, key_value, rotary, adapter_seed)
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
            scaled=self.scaled,
            dropout_rate=rate,
            seed=dropout_seed,
            return_weights=return_weights,
        )
        y = self.output_projection(
            self._merged(mixed, x.shape.rank), adapter_seed=shifted(adapter_seed, 1)
        )
        if cache is not None:
            return y, cache
        return (y, weights) if return_weights else y

    def _heads(
        self,
        x: tf.Tensor,
        context: tf.Tensor | None,
        key_value: tuple[tf.Tensor, tf.Tensor] | None,
        rotary: Any,
        adapter_seed: tf.Tensor | None,
    ) -> list[tf.Tensor]:
        """Query `[B, N, T, D]`, key and value `[B, K, S, D]`, normalised and rotated."""
        num, kv = self.num_heads, self.num_kv_heads
        if context is not None and key_value is None:
            key_value = self.context_key_value(context, adapter_seed)
        if key_value is not None:
            query = self._split(self.query(x, adapter_seed=adapter_seed), num)
            return [query, *key_value]
        heads = self._split(self.query_key_value(x, adapter_seed=adapter_seed), num + 2 * kv)
        if rotary is None and self.query_key_norm is None:
            return tf.split(heads, [num, kv, kv], axis=1)
        query_key, value = tf.split(heads, [num + kv, kv], axis=1)
        if self.query_key_norm is not None:
            query_key = self.query_key_norm(query_key)
        if rotary is not None:
            query_key = rotate(query_key, rotary)
        query, key = tf.split(query_key, [num, kv], axis=1)
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

    def compute_output_shape(self, x_shape: Any, *others: Any, **more: Any) -> Any:
        """The shape of x."""
        return x_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            **quantized_dtype(getattr(self, "output_projection", None)),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "num_kv_heads": self.num_kv_heads,
            "causal": self.causal,
            "sliding_window": self.sliding_window,
            "cross_attention": self.cross_attention,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "query_key_norm": self.query_key_norm is not None,
            "norm_epsilon": self.norm_epsilon,
            "use_bias": self.use_bias,
            "output_bias": self.output_bias,
            "scaled": self.scaled,
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
