"""Multi-head attention: softmax(Q Kᵀ / √D) V.

Shape letters: B batch, T query time, S key time, E width, N query heads, K key/value heads, D head
size.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.block_config import AttentionConfig, config_of
from tfllm.layers.dropout import next_seed, shifted
from tfllm.layers.key_value_cache import cache_length, is_empty, write_cache
from tfllm.layers.masks import AttentionMask
from tfllm.layers.normalization import QueryKeyNorm
from tfllm.layers.positions import rotary_tables, rotate
from tfllm.layers.projection import Projection, forked, quantized_dtype
from tfllm.layers.quantized import int8_policy
from tfllm.layers.scaled_dot_product import dot_product_attention
from tfllm.layers.shapes import ShapeShown, shape_of


@keras.saving.register_keras_serializable("tfllm")
class MultiHeadAttention(ShapeShown, keras.layers.Layer):
    """Multi-head attention (Vaswani et al., 2017).

    Query heads may share key/value heads in groups (Ainslie et al., 2023). Queries, keys and
    values come from one product, kernel rows in the order query heads, key heads, value heads.
    With `context` they come from two: queries from x, keys and values from the context
    (`context_key_value` computes only the latter, once for all decoded tokens).

    Args:
        config: an `AttentionConfig`, or its fields as arguments:
            `MultiHeadAttention(8, causal=True)`.
        kernel_initializer: initializer of the query, key and value projections. Defaults to
            "glorot_uniform".
        output_initializer: initializer of the output projection. Defaults to kernel_initializer.
        seed: seed of dropout. Defaults to None, a random one.

    Call arguments:
        x: float `[B, T, E]`; or `[B, E]`, one token per row (in decoding: fewer operations).
        context: float `[B, S, C]`, with cross_attention.
        padding_mask: bool `[B, S]`, true for tokens, false for padding.
        segment_ids: int `[B, T]`; tokens attend to their own segment only.
        key_value: instead of a context, the result of `context_key_value` for it.
        bias: `[1 or B, 1 or N, T, S]`, added to the scores. The causal, padding and segment masks
            are then expected to be part of it. A model computes it once for all its layers. Or an
            `AttentionMask`, which long rows have instead.
        rotary: result of `rotary_tables`. Defaults to that for the positions cache_index,
            cache_index + 1, ...
        cache: `[2, B, K, S, D]`, this layer's keys and values of earlier tokens, with room for S.
        cache_index: index of the first position of the cache to write: an int32 scalar, or the
            Python number 0 while the cache is empty. Then the new tokens attend to one another
            only, and the cost of a prompt depends on its own length, not on S. With any other index
            `padding_mask` refers to the cache's positions, bool `[B, S]`.
        training: whether dropout is applied.
        dropout_seed: int32 `[2]`. Defaults to one drawn from the layer's own generator.
        adapter_seed: seed of the dropout of the projections' adapters, int32 `[2]`; None: no
            dropout.
        return_weights: also return the attention weights.

    Returns:
        float `[B, T, E]`. With a cache: (that, the new cache). With return_weights: (that,
        weights `[B, N, T, S]`).

    Examples:
        >>> layer = tfllm.layers.MultiHeadAttention(num_heads=4, num_kv_heads=2, causal=True)
        >>> layer(tf.ones([2, 5, 16])).shape
        TensorShape([2, 5, 16])
    """

    def __init__(
        self,
        *config: Any,
        kernel_initializer: Any = "glorot_uniform",
        output_initializer: Any = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        values = config_of(AttentionConfig, config, options)
        super().__init__(**{**options, "dtype": int8_policy(options.get("dtype"))})
        self.config = values
        assert values.num_kv_heads is not None
        self.num_heads, self.num_kv_heads = values.num_heads, values.num_kv_heads
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if values.dropout else None
        self.query_key_norm = None
        if values.query_key_norm:
            self.query_key_norm = QueryKeyNorm(
                values.num_heads,
                epsilon=values.norm_epsilon,
                name="query_key_norm",
                dtype=self.dtype_policy,
            )

    def build(self, x_shape: Any, context_shape: Any = None) -> None:
        """Create the projections for inputs `[B, T, E]` (and a context `[B, S, C]`)."""
        width = x_shape[-1]
        if self.config.head_dim is None:
            if width % self.num_heads:
                raise ValueError(
                    f"the input's width must be divisible by num_heads ({self.num_heads}) when "
                    f"head_dim is not given; received width {width}"
                )
            self._head_dim = width // self.num_heads
        else:
            self._head_dim = self.config.head_dim
        dim, initializer = self._head_dim, self.kernel_initializer

        def projection(
            name: str, output_dim: int, initializer: Any, use_bias: bool = self.config.use_bias
        ) -> Projection:
            return Projection(
                output_dim,
                use_bias=use_bias,
                kernel_initializer=forked(initializer, name),
                name=name,
                dtype=self.dtype_policy,
            )

        if self.config.cross_attention:
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
            self.config.use_bias if self.config.output_bias is None else self.config.output_bias,
        )
        self.output_projection.build((*x_shape[:-1], self.num_heads * dim))
        if self.query_key_norm is not None:
            self.query_key_norm.build((None, self.num_heads + self.num_kv_heads, None, dim))
        self.built = True

    def _of_queries(self, initializer: Any, name: str) -> Any:
        """The initializer, with the queries' rows divided by √D if attention is not scaled."""
        if self.config.scaled:
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
        bias: tf.Tensor | AttentionMask | None = None,
        rotary: tuple[tf.Tensor, tf.Tensor] | None = None,
        cache: tf.Tensor | None = None,
        cache_index: int | tf.Tensor = 0,
        training: bool | None = None,
        dropout_seed: tf.Tensor | None = None,
        adapter_seed: tf.Tensor | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Compute attention; see the class for the arguments."""
        across = context is not None or key_value is not None
        if self.config.cross_attention != across:
            raise ValueError(
                "cross_attention needs a context, and only it takes one; received "
                f"cross_attention={self.config.cross_attention}, context={context}"
            )
        time: int | tf.Tensor = 1
        if x.shape.rank == 3:
            time = x.shape[1] if x.shape[1] is not None else tf.shape(x)[1]
        if bias is None:
            bias = AttentionMask(
                time,
                causal=self.config.causal and not across,
                sliding_window=None if across else self.config.sliding_window,
                padding_mask=padding_mask,
                segment_ids=segment_ids,
                cache_index=cache_index,
                cache_length=None if cache is None else cache_length(cache),
                dtype=self.compute_dtype,
            )
        if rotary is None and self.config.rope_theta is not None and not across:
            rotary = rotary_tables(
                cache_index + tf.range(time),
                self._head_dim,
                self.config.rope_theta,
                self.compute_dtype,
                self.config.rope_scaling,
            )
        query, key, value = self.heads(x, context, key_value, rotary, adapter_seed)
        if cache is not None:
            cache = write_cache(cache, cache_index, key, value)
            if not is_empty(cache_index):
                key, value = tf.unstack(cache, num=2)
        rate = self.config.dropout if training else 0.0
        if rate and dropout_seed is None:
            dropout_seed = next_seed(self.seed_generator)
        y, weights = self.attended(
            query,
            key,
            value,
            bias,
            rank=x.shape.rank,
            dropout_rate=rate,
            dropout_seed=dropout_seed,
            adapter_seed=adapter_seed,
            return_weights=return_weights,
        )
        if cache is not None:
            return y, cache
        return (y, weights) if return_weights else y

    def attended(
        self,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        bias: tf.Tensor | None,
        *,
        rank: int,
        dropout_rate: float = 0.0,
        dropout_seed: tf.Tensor | None = None,
        adapter_seed: tf.Tensor | None = None,
        decoding: bool = False,
        return_weights: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The second half of the layer, from `heads` to its result.

        Args:
            query: `[B, N, T, D]`.
            key: `[B, K, S, D]`.
            value: `[B, K, S, D]`.
            bias: as in `call`; None adds nothing.
            rank: that of the result: 3, or 2 for one token per row.
            dropout_rate: fraction of the attention weights that is dropped.
            dropout_seed: as in `call`.
            adapter_seed: as in `call`.
            decoding: as in `Projection.call`.
            return_weights: as in `call`.

        Returns:
            `[B, T, E]` or `[B, E]`, and the weights `[B, N, T, S]` or None.
        """
        mixed, weights = dot_product_attention(
            query,
            key,
            value,
            bias,
            scaled=self.config.scaled,
            dropout_rate=dropout_rate,
            seed=dropout_seed,
            return_weights=return_weights,
        )
        y = self.output_projection(
            self._merged(mixed, rank), adapter_seed=shifted(adapter_seed, 1), decoding=decoding
        )
        return y, weights

    def heads(
        self,
        x: tf.Tensor,
        context: tf.Tensor | None = None,
        key_value: tuple[tf.Tensor, tf.Tensor] | None = None,
        rotary: tuple[tf.Tensor, tf.Tensor] | None = None,
        adapter_seed: tf.Tensor | None = None,
        decoding: bool = False,
    ) -> list[tf.Tensor]:
        """The first half of the layer: query `[B, N, T, D]`, key and value `[B, K, S, D]`,
        normalized and rotated. Arguments as in `call`; decoding as in `Projection.call`."""
        num, kv = self.num_heads, self.num_kv_heads
        if context is not None and key_value is None:
            key_value = self.context_key_value(context, adapter_seed)
        if key_value is not None:
            query = self.query(x, adapter_seed=adapter_seed, decoding=decoding)
            return [self._split(query, num), *key_value]
        heads = self.query_key_value(x, adapter_seed=adapter_seed, decoding=decoding)
        heads = self._split(heads, num + 2 * kv)
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
        """`[B, T, heads * D]` to `[B, heads, T, D]`; `[B, heads * D]` is one token per row."""
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
            **dataclasses.asdict(self.config),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer)
            if self.output_initializer
            else None,
            "seed": self.seed,
        }
