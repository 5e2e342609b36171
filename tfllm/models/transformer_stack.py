"""The blocks of an encoder or of a decoder, with the layers that they share."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.block_config import BlockConfig
from tfllm.layers.masks import AttentionMask, with_bias
from tfllm.layers.projection import forked
from tfllm.layers.relative_positions import RelativePositionBias
from tfllm.layers.shapes import ShapeShown
from tfllm.models.blocks import final_norm, run_blocks, transformer_blocks
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig


class TransformerStack(ShapeShown, keras.layers.Layer):
    """Blocks, the final norm (of pre-norm models), and relative positions that all blocks share.

    Args:
        config: the architecture.
        decodes: whether it is a decoder, whose blocks are causal and attend to a context.
        initializer: initializer of the projections.
        rematerialize: recompute each block in the backward pass.
        seed: seed of dropout.
    """

    def __init__(
        self,
        config: EncoderDecoderConfig,
        *,
        decodes: bool,
        initializer: Any,
        rematerialize: bool,
        seed: int | None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("autocast", None)
        super().__init__(autocast=False, **kwargs)
        self.config = config
        options: dict[str, Any] = {"dtype": self.dtype_policy}
        self.relative_positions: RelativePositionBias | None = None
        if config.positions == "relative":
            self.relative_positions = RelativePositionBias(
                config.num_heads,
                num_buckets=config.num_position_buckets,
                max_distance=config.max_position_distance,
                bidirectional=not decodes,
                initializer=forked(_of_width(config, initializer), f"{self.name}_positions"),
                name="relative_positions",
                dtype=keras.DTypePolicy(self.dtype_policy.compute_dtype),
            )
        num_blocks = config.num_decoder_layers if decodes else config.num_layers
        assert num_blocks is not None
        block = BlockConfig(
            num_heads=config.num_heads,
            hidden_dim=config.feed_forward_dim,
            head_dim=config.head_dim,
            causal=decodes,
            cross_attention=decodes,
            norm=config.norm,
            norm_epsilon=config.norm_epsilon,
            norm_first=config.norm_first,
            activation=config.activation,
            gated=config.gated,
            use_bias=config.use_bias,
            scaled_attention=config.scaled_attention,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )
        self.blocks = transformer_blocks(
            [block] * num_blocks,
            kernel_initializer=initializer,
            seed=seed,
            prefix=f"{self.name}/",
            rematerialize=rematerialize,
            **options,
        )
        self.final_norm = final_norm(config, **options)

    def build(self, input_shape: Any) -> None:
        """Create all weights."""
        for layer in (self.relative_positions, *self.blocks, self.final_norm):
            if layer is self.relative_positions and layer is not None:
                layer.build((None,), (None,))
            elif layer is not None:
                layer.build(input_shape)
        self.built = True

    def compute_output_shape(self, input_shape: Any, *others: Any, **more: Any) -> Any:
        """The shape of x."""
        return input_shape

    def with_position_bias(
        self, mask: tf.Tensor | AttentionMask, queries: tf.Tensor, keys: tf.Tensor
    ) -> tf.Tensor | AttentionMask:
        """The bias to add to the scores: the mask and the relative positions, if there are any.

        Args:
            mask: `[1 or B, 1, T, S]`, or an `AttentionMask`.
            queries: int `[T]`, positions of the queries.
            keys: int `[S]`, positions of the keys.

        Returns:
            `[1 or B, 1 or N, T, S]`, or an `AttentionMask`.
        """
        if self.relative_positions is None:
            return mask
        return with_bias(mask, self.relative_positions(queries, keys))

    def call(
        self,
        x: tf.Tensor,
        bias: tf.Tensor | AttentionMask,
        contexts: Any = None,
        context_bias: tf.Tensor | None = None,
        context_keys_values: Any = None,
        caches: Any = None,
        cache_index: int | tf.Tensor = 0,
        training: bool | None = None,
        return_weights: bool = False,
    ) -> tuple[tf.Tensor, list[Any]]:
        """Run the blocks.

        Args:
            x: float32 `[B, T, E]` (or `[B, E]`, one token per row).
            bias: result of `with_position_bias`.
            contexts: for a decoder, the encoder's states `[B, S, E]`, unless their keys and values
                are given.
            context_bias: `[1 or B, 1, 1, S]`, added to the scores of cross-attention.
            context_keys_values: keys and values of the context for each block.
            caches: cache of the earlier tokens for each block.
            cache_index: position of the first token in the caches.
            training: whether dropout is applied.
            return_weights: also return the attention weights.

        Returns:
            normalized states in the compute dtype, and each block's cache or weights.
        """
        of_each = {"context_key_value": context_keys_values, "cache": caches}
        return run_blocks(
            x,
            self.blocks,
            self.final_norm,
            of_each,
            context=contexts,
            context_bias=context_bias,
            bias=bias,
            cache_index=cache_index,
            training=training,
            return_weights=return_weights,
        )


def _of_width(config: EncoderDecoderConfig, initializer: Any) -> Any:
    """The initializer of the relative positions: like that of a projection of the states."""
    if not hasattr(initializer, "seed"):
        return initializer
    seed = initializer.get_config().get("seed")
    return keras.initializers.RandomNormal(stddev=config.embedding_dim**-0.5, seed=seed)
