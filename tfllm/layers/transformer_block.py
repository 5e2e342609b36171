"""A Transformer block: attention and feed-forward, with a residual connection around each."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import keras
import tensorflow as tf

from tfllm.keras_internals import unlocked
from tfllm.layers.attention import MultiHeadAttention
from tfllm.layers.block_config import BlockConfig, config_of
from tfllm.layers.dropout import dropout, next_seed, shifted
from tfllm.layers.feed_forward import FeedForward
from tfllm.layers.masks import AttentionMask, learned_bias, with_bias
from tfllm.layers.normalization import norm_layer
from tfllm.layers.projection import forked, quantized_dtype
from tfllm.layers.quantized import int8_policy
from tfllm.layers.shapes import ShapeShown


@keras.saving.register_keras_serializable("tfllm")
class TransformerBlock(ShapeShown, keras.layers.Layer):
    """Transformer block: attention and feed-forward, with a residual connection around each.

    It computes x + attention(norm(x)), then x + feed_forward(norm(x)); or post-norm, as in Vaswani
    et al., 2017. The residual stream is float32 whatever the dtype policy; products run in its
    compute dtype.

    Args:
        config: a `BlockConfig`, or its fields as arguments: `TransformerBlock(8, 2048,
            causal=True)` has 8 heads and a feed-forward layer of inner width 2048.
        rematerialize: recompute the block in the backward pass instead of keeping its activations.
            Defaults to False.
        kernel_initializer: initializer of the projections. Defaults to "glorot_uniform".
        output_initializer: initializer of the projections into the residual stream. Defaults to
            kernel_initializer.
        seed: seed of dropout. Defaults to None, a random one.

    Call arguments: those of `MultiHeadAttention`, for self-attention; those of cross-attention are
        `context`, `context_padding_mask` (bool `[B, S]`), `context_bias` and `context_key_value`.
        A bias with a value for each head is assumed to be learned: a rematerialized block computes
        its gradient.

    Returns:
        float32 `[B, T, E]`; with a cache: (that, the new cache); with return_weights: (that,
        weights `[B, N, T, S]`), or (that, (weights, cross-attention's weights)).

    Examples:
        >>> block = tfllm.layers.TransformerBlock(num_heads=4, causal=True, rope_theta=1e4)
        >>> block(tf.ones([2, 5, 16])).shape
        TensorShape([2, 5, 16])
    """

    def __init__(
        self,
        *config: Any,
        rematerialize: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        output_initializer: Any = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        values = config_of(BlockConfig, config, options)
        options["dtype"] = int8_policy(options.get("dtype"))
        super().__init__(**{**options, "autocast": False})
        self.config = values
        self.rematerialize = rematerialize
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.seed = seed
        drops = values.dropout or values.attention().dropout
        self.seed_generator = keras.random.SeedGenerator(seed) if drops else None
        self.adapter_seed_generator: Any = None
        self.attention = self._attention("attention")
        self.attention_norm = self._norm("attention_norm")
        self.cross_attention: Any = None
        if values.cross_attention:
            self.cross_attention = self._attention("cross_attention", cross=True)
            self.cross_attention_norm = self._norm("cross_attention_norm")
        self.feed_forward_norm = self._norm("feed_forward_norm")

    def _attention(self, name: str, *, cross: bool = False) -> MultiHeadAttention:
        return MultiHeadAttention(
            self.config.attention(cross=cross), seed=self.seed, **self._named(name)
        )

    def _named(self, name: str) -> dict[str, Any]:
        """The constructor arguments of a sublayer besides its configuration."""
        given = (self.kernel_initializer, self.output_initializer)
        kernel, output = (None if i is None else forked(i, name) for i in given)
        return {
            "kernel_initializer": kernel,
            "output_initializer": output,
            "dtype": self.dtype_policy,
            "name": name,
        }

    def _norm(self, name: str) -> keras.layers.Layer:
        kind, epsilon = self.config.norm, self.config.norm_epsilon
        return norm_layer(kind, epsilon, name=name, dtype=self.dtype_policy)

    def build(self, x_shape: Any, context_shape: Any = None) -> None:
        """Create the sublayers for inputs `[B, T, E]`."""
        config = self.config
        self.feed_forward = FeedForward(
            4 * x_shape[-1] if config.hidden_dim is None else config.hidden_dim,
            activation=config.activation,
            gated=config.gated,
            use_bias=config.has_bias("feed_forward"),
            **self._named("feed_forward"),
        )
        for layer in (
            self.attention_norm,
            self.attention,
            self.feed_forward_norm,
            self.feed_forward,
        ):
            layer.build(x_shape)
        if self.cross_attention is not None:
            self.cross_attention_norm.build(x_shape)
            self.cross_attention.build(x_shape, context_shape)
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        context: tf.Tensor | None = None,
        padding_mask: tf.Tensor | None = None,
        segment_ids: tf.Tensor | None = None,
        context_padding_mask: tf.Tensor | None = None,
        context_bias: tf.Tensor | None = None,
        context_key_value: tuple[tf.Tensor, tf.Tensor] | None = None,
        bias: tf.Tensor | AttentionMask | None = None,
        rotary: tuple[tf.Tensor, tf.Tensor] | None = None,
        cache: tf.Tensor | None = None,
        cache_index: int | tf.Tensor = 0,
        training: bool | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Run the block."""
        if (self.cross_attention is None) != (context is None and context_key_value is None):
            raise ValueError(
                "cross_attention needs a context, and only it takes one; received "
                f"cross_attention={self.cross_attention is not None}, context={context}"
            )
        x = tf.cast(x, tf.float32)
        rate = self.config.dropout if training else 0.0
        # Drawn once, out here, since a recomputed block must drop the same elements again.
        drops = training and self.seed_generator is not None
        seed = next_seed(self.seed_generator) if drops else None
        adapter_seed = None
        if training and self.adapter_seed_generator is not None:
            adapter_seed = next_seed(self.adapter_seed_generator)
        extra: list[tf.Tensor] = []  # the caches or weights that attention returns

        def attend(h: tf.Tensor, bias: Any) -> tf.Tensor:
            given = self.attention(
                h,
                padding_mask=padding_mask,
                segment_ids=segment_ids,
                bias=bias,
                rotary=rotary,
                cache=cache,
                cache_index=cache_index,
                training=training,
                dropout_seed=shifted(seed, 0),
                adapter_seed=shifted(adapter_seed, 0),
                return_weights=return_weights,
            )
            if isinstance(given, tuple):
                given, other = given
                extra.append(other)
            return given

        def look_across(h: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
            given = self.cross_attention(
                h,
                context=context,
                key_value=context_key_value,
                padding_mask=context_padding_mask,
                bias=context_bias,
                training=training,
                dropout_seed=shifted(seed, 1),
                adapter_seed=shifted(adapter_seed, 4),
                return_weights=return_weights and cache is None,
            )
            if isinstance(given, tuple):
                given, other = given
                extra.append(other)
            return given

        def feed_forward(h: tf.Tensor) -> tf.Tensor:
            return self.feed_forward(h, adapter_seed=shifted(adapter_seed, 2), training=training)

        def residual(x: tf.Tensor, norm: Any, sublayer: Any, number: int) -> tf.Tensor:
            h = sublayer(self._sublayer_input(x, norm))
            return self._added(x, dropout(h, rate, shifted(seed, 2 + number)) if rate else h, norm)

        def run(x: tf.Tensor, context: Any = None, bias: Any = bias) -> tf.Tensor:
            x = residual(x, self.attention_norm, functools.partial(attend, bias=bias), 0)
            if self.cross_attention is not None:
                across = functools.partial(look_across, context=context)
                x = residual(x, self.cross_attention_norm, across, 1)
            return residual(x, self.feed_forward_norm, feed_forward, 2)

        if self.rematerialize and training and cache is None and not return_weights:
            # Only arguments of the recomputed function get a gradient.
            contexts = [] if context is None else [context]
            learned = learned_bias(bias)
            if learned is None:
                return tf.recompute_grad(run)(x, *contexts)

            def run_biased(x: tf.Tensor, learned: tf.Tensor, *contexts: tf.Tensor) -> tf.Tensor:
                mask = bias if isinstance(bias, AttentionMask) else None
                return run(x, contexts[0] if contexts else None, with_bias(mask, learned))

            return tf.recompute_grad(run_biased)(x, learned, *contexts)
        x = run(x, context)
        if len(extra) > 1:
            return x, tuple(extra)
        return (x, extra[0]) if extra else x

    def _sublayer_input(self, x: tf.Tensor, norm: Any) -> tf.Tensor:
        return norm(x) if self.config.norm_first else tf.cast(x, self.compute_dtype)

    def _added(self, x: tf.Tensor, h: tf.Tensor, norm: Any) -> tf.Tensor:
        """The residual stream after a sublayer that gave h."""
        x = x + tf.cast(h, tf.float32)
        return x if self.config.norm_first else tf.cast(norm(x), tf.float32)

    def heads(self, x: tf.Tensor, rotary: tuple[tf.Tensor, tf.Tensor] | None) -> list[tf.Tensor]:
        """The first half of the block in decoding, up to what is written to the cache.

        Args:
            x: `[B, T, E]` or `[B, E]`.
            rotary: as in `call`.

        Returns:
            query `[B, N, T, D]`, key and value `[B, K, T, D]`.
        """
        h = self._sublayer_input(tf.cast(x, tf.float32), self.attention_norm)
        return self.attention.heads(h, rotary=rotary, decoding=True)

    def after_heads(
        self,
        x: tf.Tensor,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        bias: tf.Tensor | None,
        context_key_value: tuple[tf.Tensor, tf.Tensor] | None = None,
        context_bias: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The second half of the block in decoding.

        Args:
            x: `[B, T, E]` or `[B, E]`, as `heads` got it.
            query: the query of `heads`.
            key: keys of the new tokens, or of all in the cache, `[B, K, S, D]`.
            value: their values.
            bias: as in `call`.
            context_key_value: as in `call`.
            context_bias: as in `call`.

        Returns:
            float32, shaped as x.
        """
        x = tf.cast(x, tf.float32)
        h, _ = self.attention.attended(query, key, value, bias, rank=x.shape.rank, decoding=True)
        x = self._added(x, h, self.attention_norm)
        if self.cross_attention is not None:
            h = self._sublayer_input(x, self.cross_attention_norm)
            # Keras would give a layer that is not told the value that the layer before it had.
            h = self.cross_attention(
                h, key_value=context_key_value, bias=context_bias, training=False
            )
            x = self._added(x, h, self.cross_attention_norm)
        h = self.feed_forward(
            self._sublayer_input(x, self.feed_forward_norm), training=False, decoding=True
        )
        return self._added(x, h, self.feed_forward_norm)

    def compute_output_shape(self, x_shape: Any, *others: Any, **more: Any) -> Any:
        """The shape of x."""
        return x_shape

    def drop_adapter_inputs(self, seed: int | None) -> None:
        """Apply dropout to the inputs of the projections' adapters during training.

        Args:
            seed: seed of the dropout masks.
        """
        with unlocked(self):
            self.adapter_seed_generator = keras.random.SeedGenerator(seed)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("autocast", None)
        return {
            **config,
            **quantized_dtype(getattr(self.attention, "output_projection", None)),
            **dataclasses.asdict(self.config),
            "rematerialize": self.rematerialize,
            "seed": self.seed,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer)
            if self.output_initializer
            else None,
        }
