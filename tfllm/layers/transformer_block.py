"""A Transformer block: attention and feed-forward, a residual around each."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfllm.keras_internals import unlocked
from tfllm.layers.attention import MultiHeadAttention
from tfllm.layers.dropout import dropout, next_seed, shifted
from tfllm.layers.feed_forward import FeedForward
from tfllm.layers.normalization import norm_layer
from tfllm.layers.projection import forked, quantized_dtype
from tfllm.layers.quantized import int8_policy
from tfllm.layers.shapes import ShapeShown


@keras.saving.register_keras_serializable("tfllm")
class TransformerBlock(ShapeShown, keras.layers.Layer):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); or post-norm, as in the 2017 paper.

    The residual stream is float32 whatever the dtype policy; products run in its compute dtype.

    Args:
        num_heads: number of query heads.
        hidden_dim: inner width of the feed-forward; default 4 x the input's width.
        num_kv_heads: number of key/value heads; default num_heads.
        head_dim: size of a head; default: the input's width / num_heads.
        causal: tokens see only themselves and what stands before.
        sliding_window: how many tokens a token sees, itself the last of them; None: all.
        cross_attention: a third sublayer, between the two, attends to `context`.
        rope_theta: base of the rotary positions; None for none.
        rope_scaling: how the rotary frequencies are lowered; see `rotary_frequencies`.
        query_key_norm: RMSNorm of each head's query and key, before they are rotated.
        norm: "rms" or "layer".
        norm_epsilon: of the normalisations.
        norm_first: pre-norm or post-norm.
        activation: of the feed-forward.
        gated: gate the feed-forward.
        use_bias: biases in the projections.
        query_key_value_bias: in those of queries, keys and values; default: use_bias.
        attention_output_bias: in the attention's output projection; default: use_bias.
        feed_forward_bias: in the feed-forward; default: use_bias.
        scaled_attention: false: attention's scores are not divided by √D.
        dropout: share of the attention weights and of each sublayer's result dropped in training.
        attention_dropout: share of the attention weights; default: dropout.
        rematerialize: recompute the block in the backward pass instead of keeping its activations.
        kernel_initializer: of the projections.
        output_initializer: of the projections into the residual stream; default the same.
        seed: of dropout.

    Call arguments: as `MultiHeadAttention`; of the attention to the context are
        `context_padding_mask` (bool `[B, S]`), `context_bias` and `context_key_value`. A bias with
        a value for each head is taken to be learned: a block that is recomputed gives its gradient.

    Returns:
        float32 `[B, T, E]`; with a cache: (that, the new cache); with return_weights:
        (that, weights `[B, N, T, S]`), or (that, (those, weights of the context)).
    """

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int | None = None,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = False,
        sliding_window: int | None = None,
        cross_attention: bool = False,
        rope_theta: float | None = None,
        rope_scaling: Mapping[str, Any] | None = None,
        query_key_norm: bool = False,
        norm: str = "rms",
        norm_epsilon: float = 1e-5,
        norm_first: bool = True,
        activation: str = "silu",
        gated: bool = True,
        use_bias: bool = False,
        query_key_value_bias: bool | None = None,
        attention_output_bias: bool | None = None,
        feed_forward_bias: bool | None = None,
        scaled_attention: bool = True,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        rematerialize: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        output_initializer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("autocast", None)
        kwargs["dtype"] = int8_policy(kwargs.get("dtype"))
        super().__init__(autocast=False, **kwargs)
        self._settings = {
            "num_heads": num_heads,
            "hidden_dim": hidden_dim,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "causal": causal,
            "sliding_window": sliding_window,
            "cross_attention": cross_attention,
            "rope_theta": rope_theta,
            "rope_scaling": None if rope_scaling is None else dict(rope_scaling),
            "query_key_norm": query_key_norm,
            "norm": norm,
            "norm_epsilon": norm_epsilon,
            "norm_first": norm_first,
            "activation": activation,
            "gated": gated,
            "use_bias": use_bias,
            "query_key_value_bias": query_key_value_bias,
            "attention_output_bias": attention_output_bias,
            "feed_forward_bias": feed_forward_bias,
            "scaled_attention": scaled_attention,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "rematerialize": rematerialize,
            "seed": seed,
        }
        self.norm_first = norm_first
        self.dropout = dropout
        self.rematerialize = rematerialize
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        if attention_dropout is None:
            attention_dropout = dropout
        self.attention_dropout = attention_dropout
        drops = dropout or attention_dropout
        self.seed_generator = keras.random.SeedGenerator(seed) if drops else None
        self.adapter_seed_generator: Any = None

        def initializers(name: str) -> dict[str, Any]:
            given = (self.kernel_initializer, self.output_initializer)
            kernel, output = (None if i is None else forked(i, name) for i in given)
            return {"kernel_initializer": kernel, "output_initializer": output}

        attention = {
            "head_dim": head_dim,
            "num_kv_heads": num_kv_heads,
            "use_bias": use_bias if query_key_value_bias is None else query_key_value_bias,
            "output_bias": use_bias if attention_output_bias is None else attention_output_bias,
            "scaled": scaled_attention,
            "dropout": attention_dropout,
            "seed": seed,
            "dtype": self.dtype_policy,
        }
        self.attention = MultiHeadAttention(
            num_heads,
            causal=causal,
            sliding_window=sliding_window,
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            query_key_norm=query_key_norm,
            norm_epsilon=norm_epsilon,
            name="attention",
            **attention,
            **initializers("attention"),
        )
        self.attention_norm = self._norm(norm, norm_epsilon, "attention_norm")
        self.cross_attention: Any = None
        if cross_attention:
            self.cross_attention = MultiHeadAttention(
                num_heads,
                cross_attention=True,
                name="cross_attention",
                **attention,
                **initializers("cross_attention"),
            )
            self.cross_attention_norm = self._norm(norm, norm_epsilon, "cross_attention_norm")
        self.feed_forward_norm = self._norm(norm, norm_epsilon, "feed_forward_norm")
        self._feed_forward_options = {
            "activation": activation,
            "gated": gated,
            "use_bias": use_bias if feed_forward_bias is None else feed_forward_bias,
            "dtype": self.dtype_policy,
            "name": "feed_forward",
            **initializers("feed_forward"),
        }
        self.hidden_dim = hidden_dim

    def _norm(self, kind: str, epsilon: float, name: str) -> keras.layers.Layer:
        return norm_layer(kind, epsilon, name=name, dtype=self.dtype_policy)

    def build(self, x_shape: Any, context_shape: Any = None) -> None:
        """Create the sublayers for inputs `[B, T, E]`."""
        hidden_dim = 4 * x_shape[-1] if self.hidden_dim is None else self.hidden_dim
        self.feed_forward = FeedForward(hidden_dim, **self._feed_forward_options)
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
        bias: tf.Tensor | None = None,
        rotary: tuple[tf.Tensor, tf.Tensor] | None = None,
        cache: tf.Tensor | None = None,
        slot: int | tf.Tensor = 0,
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
        rate = self.dropout if training else 0.0
        # Drawn once, out here: a recomputed block must drop the same elements again.
        drops = training and self.seed_generator is not None
        seed = next_seed(self.seed_generator) if drops else None
        adapter_seed = None
        if training and self.adapter_seed_generator is not None:
            adapter_seed = next_seed(self.adapter_seed_generator)
        extra: list[tf.Tensor] = []  # what attention gave besides its result

        def attend(h: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
            given = self.attention(
                h,
                padding_mask=padding_mask,
                segment_ids=segment_ids,
                bias=bias,
                rotary=rotary,
                cache=cache,
                slot=slot,
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
            h = sublayer(norm(x) if self.norm_first else tf.cast(x, self.compute_dtype))
            if rate:
                h = dropout(h, rate, shifted(seed, 2 + number))
            x = x + tf.cast(h, tf.float32)
            return x if self.norm_first else tf.cast(norm(x), tf.float32)

        def run(x: tf.Tensor, context: Any = None, bias: Any = bias) -> tf.Tensor:
            x = residual(x, self.attention_norm, functools.partial(attend, bias=bias), 0)
            if self.cross_attention is not None:
                across = functools.partial(look_across, context=context)
                x = residual(x, self.cross_attention_norm, across, 1)
            return residual(x, self.feed_forward_norm, feed_forward, 2)

        if self.rematerialize and training and cache is None and not return_weights:
            # Of what is not an argument there would be no gradient.
            learned = [bias] if bias is not None and bias.shape[1] != 1 else []
            if context is None and learned:
                return tf.recompute_grad(lambda x, bias: run(x, bias=bias))(x, *learned)
            return tf.recompute_grad(run)(x, *([] if context is None else [context]), *learned)
        x = run(x, context)
        if len(extra) > 1:
            return x, tuple(extra)
        return (x, extra[0]) if extra else x

    def compute_output_shape(self, x_shape: Any, *others: Any, **more: Any) -> Any:
        """The shape of x."""
        return x_shape

    def drop_adapter_inputs(self, seed: int | None) -> None:
        """Have the adapters of the block's projections drop their inputs while training.

        Args:
            seed: of the masks.
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
            **self._settings,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer)
            if self.output_initializer
            else None,
        }
