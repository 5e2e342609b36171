"""A decoder-only Transformer, from token ids to the logits of the next token.

Shape letters: B batch, T time, S cache positions, E width, V vocabulary, D head size.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfllm.config import ModelConfig, build
from tfllm.layers.block_config import BlockConfig
from tfllm.layers.dropout import dropout, named_seed, next_seed
from tfllm.layers.key_value_cache import cache_length
from tfllm.layers.masks import shared_bias
from tfllm.layers.positions import (
    LearnedPositions,
    SinusoidalPositions,
    positions_in_segments,
    rotary_tables,
)
from tfllm.layers.projection import forked
from tfllm.layers.quantized import assign_weights
from tfllm.models.abstract import without_values
from tfllm.models.adapters import Adapter, AdapterMethods
from tfllm.models.blocks import final_norm, run_blocks, transformer_blocks
from tfllm.models.token_ids import checked_tokens, ids_shape, num_tokens
from tfllm.models.verbs import GenerateVerb
from tfllm.models.vocabulary import VocabularyMethods, embedding_table
from tfllm.optimization.linear_cross_entropy import linear_cross_entropy
from tfllm.optimization.precision import keras_policy
from tfllm.optimization.training_step import TrainingStep


class Cache(NamedTuple):
    """The keys and values of earlier tokens."""

    keys_values: tuple[tf.Tensor, ...]
    """one for each layer: `[2, B, kv heads, S, D]`"""
    next_index: int | tf.Tensor
    """cache position that is written next, int32 scalar; the Python number 0: it is empty"""


@keras.saving.register_keras_serializable("tfllm")
class CausalLM(AdapterMethods, VocabularyMethods, GenerateVerb, TrainingStep):
    """A causal language model, as a Keras model.

    Args:
        config: the architecture, a `ModelConfig` or a dictionary of its fields.
        seed: seed of the initial weights and of dropout. With None the weights are 0, to be
            assigned. Defaults to 0.
        rematerialize: recompute each block in the backward pass instead of keeping its activations.
            Defaults to False.
        dtype: dtype policy, such as "float32", "mixed_bfloat16" or "bfloat16". With
            "int8_float32" or "int8_bfloat16" all matrices are stored as integers, 0 until they are
            assigned, and are used in the float type; "int8" is the faster of the two on this
            machine. Defaults to Keras' global policy.

    Call arguments:
        inputs: token ids, int `[B, T]`; or a dictionary with `token_ids` and, optionally,
            `segment_ids` (int `[B, T]`, documents that must not see one another) and
            `padding_mask` (bool `[B, T]`).
        training: whether dropout is applied.

    Returns:
        logits, float32 `[B, T, V]`.

    Examples:
        >>> config = tfllm.ModelConfig(64, embedding_dim=16, num_layers=1, num_heads=2)
        >>> model = tfllm.CausalLM(config)
        >>> model(np.ones([2, 5], "int32")).shape
        TensorShape([2, 5, 64])
    """

    built: bool

    def __init__(
        self,
        config: ModelConfig | dict[str, Any],
        *,
        seed: int | None = 0,
        rematerialize: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = keras_policy(kwargs.get("dtype"))
        super().__init__(**kwargs)
        self.config = config = build(ModelConfig, config) if isinstance(config, dict) else config
        self.seed = seed
        self.rematerialize = rematerialize
        self._prepare_adapters()
        options: dict[str, Any] = {"dtype": self.dtype_policy}
        normal, to_residual = _initializers(config, seed)
        self.token_embedding = embedding_table(
            config.vocab_size,
            config.embedding_dim,
            forked(normal, "token_embedding"),
            name="token_embedding",
            **options,
        )
        self.position_embedding = None
        if config.positions == "learned":
            self.position_embedding = LearnedPositions(
                config.max_sequence_length,
                initializer=forked(normal, "position_embedding"),
                name="position_embedding",
                **options,
            )
        elif config.positions == "sinusoidal":
            self.position_embedding = SinusoidalPositions(name="position_embedding", **options)
        self._windows = tuple(config.has_window(i) for i in range(config.num_layers))
        self.blocks = transformer_blocks(
            (block_config(config, i) for i in range(config.num_layers)),
            kernel_initializer=normal,
            output_initializer=to_residual,
            seed=seed,
            rematerialize=rematerialize,
            **options,
        )
        self.final_norm = final_norm(config, **options)
        self._output_initializer = forked(normal, "output")
        self.seed_generator = (
            keras.random.SeedGenerator(named_seed(seed, "embedding")) if config.dropout else None
        )
        self.build((None, None))
        self._keep_floats_alone()

    @classmethod
    def abstract(cls, config: ModelConfig, **options: Any) -> CausalLM:
        """A model whose weights have shapes, dtypes and names, but no values and no memory.

        It is for inspecting a model that this machine cannot hold: `count_params()`, `summary()`.
        It cannot be called.

        Args:
            config: the architecture.
            options: other arguments of the constructor.
        """
        return without_values(cls, config, **options)

    def build(self, input_shape: Any) -> None:
        """Create all weights; they do not depend on the input's shape."""
        del input_shape
        if self.built:
            return
        hidden = (None, None, self.config.embedding_dim)
        self.token_embedding.build((None, None))
        for layer in (self.position_embedding, *self.blocks, self.final_norm):
            if layer is not None:
                with tf.name_scope(layer.name):
                    layer.build(hidden)
        self._add_output_kernel(self._output_initializer)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Logits of the next token at every position."""
        return self.logits(self.hidden_states(inputs, training=training)[0])

    def hidden_states(
        self,
        inputs: Any,
        *,
        positions: tf.Tensor | None = None,
        bias: tf.Tensor | None = None,
        window_bias: tf.Tensor | None = None,
        cache: Cache | None = None,
        training: bool | None = None,
        return_weights: bool = False,
    ) -> tuple[tf.Tensor, Any]:
        """Run the model up to the output projection.

        Args:
            inputs: as in `call`.
            positions: int `[T]` or `[B, T]`. Defaults to the positions within the segment, or in
                the cache.
            bias: `[1 or B, 1, T, S]`, added to the attention scores. Defaults to the causal,
                segment and padding masks.
            window_bias: the same for blocks with a sliding window. A model that has blocks with and
                without a window needs both biases or none.
            cache: keys and values of earlier tokens, to which the new ones are appended. A
                `padding_mask` then refers to the cache's positions, bool `[B, S]` (to `token_ids`
                while the cache is empty).
            training: whether dropout is applied.
            return_weights: also return the attention weights.

        Returns:
            normalized states `[B, T, E]` in the compute dtype, and the new cache, or each layer's
            attention weights `[B, heads, T, S]`, or None.
        """
        given = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
        token_ids = checked_tokens(given["token_ids"], self.config, decoding=cache is not None)
        segment_ids, padding_mask = given.get("segment_ids"), given.get("padding_mask")
        time = num_tokens(token_ids)
        index = 0 if cache is None else cache.next_index
        if bias is None and window_bias is None:
            bias, window_bias = self._biases(
                time, segment_ids, padding_mask, cache, whole=return_weights
            )
        biases = [window_bias if window else bias for window in self._windows]
        if any(wanted is None for wanted in biases):
            raise ValueError(
                "bias is for blocks without a sliding window and window_bias for those with one: a "
                "model that has both kinds of blocks needs both; received only "
                f"{'bias' if window_bias is None else 'window_bias'}"
            )
        if positions is None and segment_ids is not None and self.position_embedding is not None:
            positions = positions_in_segments(segment_ids)
        if positions is None:  # rotary angles are relative: a segment's start does not matter
            positions = index + tf.range(time)
        rotary = None
        assert self.config.head_dim is not None
        if self.config.positions == "rotary":
            rotary = rotary_tables(
                positions,
                self.config.head_dim,
                self.config.rope_theta,
                self.compute_dtype,
                _rope_scaling(self.config),
            )

        x = tf.cast(self.token_embedding(token_ids), tf.float32)
        if self.position_embedding is not None:
            x += tf.cast(self.position_embedding(x, positions), tf.float32)
        if training and self.config.dropout:
            x = dropout(x, self.config.dropout, next_seed(self.seed_generator))
        one_token = cache is not None and token_ids.shape[1] == 1
        if one_token:  # `[B, E]`: fewer operations, whose overhead exceeds their arithmetic
            x = tf.squeeze(x, 1)
        x, extra = run_blocks(
            x,
            self.blocks,
            self.final_norm,
            {
                "bias": biases,
                "rotary": [rotary if self.config.rotates(i) else None for i in range(len(biases))],
                "cache": None if cache is None else cache.keys_values,
            },
            cache_index=index,
            training=training,
            return_weights=return_weights,
        )
        if one_token:
            x = x[:, tf.newaxis]
        if cache is not None:
            return x, Cache(tuple(extra), cache.next_index + time)
        return x, extra or None

    def _biases(
        self,
        time: int | tf.Tensor,
        segment_ids: tf.Tensor | None,
        padding_mask: tf.Tensor | None,
        cache: Cache | None,
        *,
        whole: bool,
    ) -> tuple[Any, Any]:
        """The masks of blocks without and with a sliding window.

        Each is computed once for all its blocks, and is None if there are no such blocks.
        """
        bias = functools.partial(
            shared_bias,
            whole=whole,
            query_time=time,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            cache_index=0 if cache is None else cache.next_index,
            cache_length=None if cache is None else cache_length(cache.keys_values[0]),
            dtype=self.compute_dtype,
        )
        return (
            None if all(self._windows) else bias(),
            bias(sliding_window=self.config.sliding_window) if any(self._windows) else None,
        )

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the logits, `[B, T, V]`, for the shape of token ids or inputs."""
        return (*ids_shape(input_shape), self.config.vocab_size)

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sums of the tokens' losses and of their weights, without holding all logits at once."""
        if logits is not None:
            return super().loss_sums(x, y, weights, training=training, logits=logits)
        hidden, _ = self.hidden_states(x, training=training)
        loss = linear_cross_entropy(
            tf.reshape(hidden, [-1, self.config.embedding_dim]),
            tf.cast(self.output_weights, hidden.dtype),
            tf.reshape(y, [-1]),
            tf.reshape(weights, [-1]),
            with_gradient=training,
            with_kernel_gradient=self.output_variable.trainable,
        )
        return loss, tf.reduce_sum(weights)

    def attention_weights(self, inputs: Any) -> list[tf.Tensor]:
        """Each layer's attention weights, `[B, num_heads, T, T]`."""
        return self.hidden_states(inputs, return_weights=True)[1]

    def empty_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        """An empty cache with `length` positions."""
        config = self.config
        shape = tf.stack([2, batch_size, config.num_kv_heads, length, config.head_dim])
        static = [2, None, config.num_kv_heads, None, config.head_dim]
        return Cache(
            tuple(
                tf.ensure_shape(tf.zeros(shape, self.compute_dtype), static) for _ in self.blocks
            ),
            0,
        )

    def with_dtype(self, dtype: Any) -> CausalLM:
        """A copy with another dtype policy, such as "bfloat16" for decoding; weights are cast.

        Matrices are rounded to integers for "int8", and converted back from integers otherwise.

        The adapter in use is merged into the copy's weights; the copy has no adapters.
        """
        copy = CausalLM(self.config, seed=None, dtype=dtype, name=self.name)
        assign_weights(copy.weights, self.own_weights)
        self._copy_adapter_into(copy)
        return self.copied_to(copy)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "rematerialize": self.rematerialize,
            "adapters": {name: adapter.to_dict() for name, adapter in self._adapters.items()},
            "adapter": self._adapter_in_use,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> CausalLM:
        """A new model with the configuration that `get_config` returned, including adapters."""
        config = dict(config)
        adapters, in_use = config.pop("adapters", {}), config.pop("adapter", None)
        model = super().from_config(config, custom_objects)
        for name, adapter in adapters.items():
            model.add_adapter(Adapter.build(adapter), name)
        if adapters:
            model.set_adapter(in_use)
        return model


def block_config(config: ModelConfig, index: int) -> BlockConfig:
    """The configuration of a decoder's block.

    Args:
        config: the architecture.
        index: index of the block, counted from 0.
    """
    return BlockConfig(
        num_heads=config.num_heads,
        hidden_dim=config.feed_forward_dim,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        causal=True,
        sliding_window=config.sliding_window if config.has_window(index) else None,
        rope_theta=config.rope_theta if config.rotates(index) else None,
        rope_scaling=_rope_scaling(config),
        query_key_norm=config.query_key_norm,
        norm=config.norm,
        norm_epsilon=config.norm_epsilon,
        norm_first=config.norm_first,
        activation=config.activation,
        gated=config.gated,
        query_key_value_bias=config.has_bias("query_key_value"),
        attention_output_bias=config.has_bias("attention_output"),
        feed_forward_bias=config.has_bias("feed_forward"),
        dropout=config.dropout,
    )


def _rope_scaling(config: ModelConfig) -> dict[str, Any] | None:
    return None if config.rope_scaling is None else dataclasses.asdict(config.rope_scaling)


def _initializers(config: ModelConfig, seed: int | None) -> tuple[Any, Any]:
    """Initializers of the weights, and of those that project into the residual stream.

    The latter are smaller, so that the stream's variance does not grow with depth (Radford et al.,
    GPT-2, 2019).
    """
    if seed is None:
        return keras.initializers.Zeros(), keras.initializers.Zeros()
    deviation = config.initializer_range
    return (
        keras.initializers.RandomNormal(stddev=deviation, seed=seed),
        keras.initializers.RandomNormal(
            stddev=deviation / (2 * config.num_layers) ** 0.5, seed=seed + 1
        ),
    )


@keras.saving.register_keras_serializable("tfllm")
class Transformer(CausalLM):
    """A causal language model made from its four main sizes.

    It has standard Transformer blocks (attention and a gated feed-forward layer with a residual
    connection around each, RMSNorm, rotary positions) and an output projection that is tied to the
    embedding.

    Args:
        vocab_size: number of token ids.
        embedding_dim: width of the residual stream.
        num_heads: number of attention heads; must divide embedding_dim.
        num_layers: number of blocks.
        options: any other field of `ModelConfig`, and the keyword arguments of `CausalLM`.

    Examples:
        >>> model = tfllm.Transformer(vocab_size=64, embedding_dim=16, num_heads=2, num_layers=1)
        >>> model(np.ones([2, 5], "int32")).shape
        TensorShape([2, 5, 64])
    """

    def __init__(
        self, vocab_size: int, embedding_dim: int, num_heads: int, num_layers: int, **options: Any
    ) -> None:
        fields = {f.name for f in dataclasses.fields(ModelConfig)}
        config = {name: options.pop(name) for name in list(options) if name in fields}
        config |= {
            "vocab_size": vocab_size,
            "embedding_dim": embedding_dim,
            "num_heads": num_heads,
            "num_layers": num_layers,
        }
        super().__init__(build(ModelConfig, config), **options)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        return {**config.pop("config"), **config}
