"""An encoder-decoder Transformer, from the ids of source and text to the logits of the next token.

Shape letters: B batch, S source time, T text time, E width, V vocabulary, N heads, D head size.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfllm.config import build
from tfllm.layers.dropout import dropout, named_seed, next_seed
from tfllm.layers.masks import shared_bias
from tfllm.layers.positions import SinusoidalPositions
from tfllm.layers.projection import forked
from tfllm.layers.quantized import assign_weights
from tfllm.models.abstract import without_values
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.token_ids import checked_tokens, ids_shape, num_tokens
from tfllm.models.transformer_stack import TransformerStack
from tfllm.models.verbs import GenerateVerb
from tfllm.models.vocabulary import VocabularyMethods, embedding_table
from tfllm.optimization.linear_cross_entropy import linear_cross_entropy
from tfllm.optimization.precision import keras_policy
from tfllm.optimization.training_step import TrainingStep


class EncodedSource(NamedTuple):
    """What the decoder needs from the sources, computed once for all decoded tokens."""

    keys_values: tuple[tuple[tf.Tensor, tf.Tensor], ...]
    """the keys and the values for each block of the decoder, each `[B, N, S, D]`"""
    bias: tf.Tensor
    """`[1 or B, 1, 1, 1 or S]`: masks the padding"""


@keras.saving.register_keras_serializable("tfllm")
class EncoderDecoder(VocabularyMethods, GenerateVerb, TrainingStep):
    """A sequence-to-sequence model (Vaswani et al., 2017; Raffel et al., T5, 2020).

    Args:
        config: the architecture, an `EncoderDecoderConfig` or a dictionary of its fields.
        label_smoothing: fraction of a label's weight that is spread evenly over all V tokens in
            training (Szegedy et al., 2016); not in validation. Defaults to 0.
        seed: seed of the initial weights and of dropout. With None the weights are 0, to be
            assigned. Defaults to 0.
        rematerialize: recompute each block in the backward pass instead of keeping its activations.
            Defaults to False.
        dtype: dtype policy, as for `CausalLM`.

    Call arguments:
        inputs: a dictionary with `source_ids`, int `[B, S]`, `source_mask`, bool `[B, S]` (true
            for tokens; optional), and `token_ids`, int `[B, T]`: the decoder's input, which is
            `config.decoder_start_token_id` and the text without its last token. The labels are the
            text; padding after it has weight 0.
        training: whether dropout is applied.

    Returns:
        logits, float32 `[B, T, V]`.

    Examples:
        >>> config = tfllm.EncoderDecoderConfig(64, embedding_dim=16, num_layers=1, num_heads=2)
        >>> model = tfllm.EncoderDecoder(config)
        >>> ids = np.ones([2, 5], "int32")
        >>> model({"source_ids": ids, "token_ids": ids}).shape
        TensorShape([2, 5, 64])
    """

    built: bool

    def __init__(
        self,
        config: EncoderDecoderConfig | dict[str, Any],
        *,
        label_smoothing: float = 0.0,
        seed: int | None = 0,
        rematerialize: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = keras_policy(kwargs.get("dtype"))
        super().__init__(**kwargs)
        if isinstance(config, dict):
            config = build(EncoderDecoderConfig, config)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1); received {label_smoothing}")
        self.config = config
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.rematerialize = rematerialize
        options: dict[str, Any] = {"dtype": self.dtype_policy}
        self.token_embedding = embedding_table(
            config.vocab_size,
            config.embedding_dim,
            _normal(_embedding_deviation(config), seed, "embedding"),
            name="token_embedding",
            **options,
        )
        self.positions = None
        if config.positions == "sinusoidal":
            self.positions = SinusoidalPositions(name="positions", dtype="float32")
        parts = {
            "initializer": _projections(config, seed),
            "rematerialize": rematerialize,
            "seed": seed,
            **options,
        }
        self.encoder = TransformerStack(config, decodes=False, name="encoder", **parts)
        self.decoder = TransformerStack(config, decodes=True, name="decoder", **parts)
        self.seed_generator = (
            keras.random.SeedGenerator(named_seed(seed, "embedding")) if config.dropout else None
        )
        self.build((None, None))
        self._keep_floats_alone()

    @classmethod
    def abstract(cls, config: EncoderDecoderConfig, **options: Any) -> EncoderDecoder:
        """A model whose weights have no values and no memory; see `CausalLM.abstract`."""
        return without_values(cls, config, **options)

    def build(self, input_shape: Any) -> None:
        """Create all weights; they do not depend on the input's shape."""
        del input_shape
        if self.built:
            return
        config = self.config
        self.token_embedding.build((None, None))
        if self.positions is not None:
            self.positions.build((None, None, config.embedding_dim))
        for stack in (self.encoder, self.decoder):
            with tf.name_scope(stack.name):
                stack.build((None, None, config.embedding_dim))
        self._add_output_kernel(_normal(config.embedding_dim**-0.5, self.seed, "output"))
        if config.output_bias:
            self.output_bias = self.add_weight(
                name="output_bias",
                shape=(1, config.vocab_size),
                initializer="zeros",
                dtype="float32",
                autocast=False,
                trainable=False,
            )
        self.built = True

    # ------------------------------------------------------------------ the forward pass

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Logits of the next token at every position of the text."""
        return self.logits(self.hidden_states(inputs, training=training)[0])

    def hidden_states(
        self, inputs: Any, *, training: bool | None = None, return_weights: bool = False
    ) -> tuple[tf.Tensor, dict[str, list[tf.Tensor]] | None]:
        """Run the model up to the output projection.

        Args:
            inputs: as in `call`.
            training: whether dropout is applied.
            return_weights: also return the attention weights.

        Returns:
            the decoder's states `[B, T, E]` in the compute dtype, and None or the attention weights
            of each layer: "encoder" `[B, N, S, S]`, "decoder" `[B, N, T, T]`, "cross"
            `[B, N, T, S]`.
        """
        token_ids = self._checked(inputs["token_ids"], "text")
        source_mask = inputs.get("source_mask")
        options = {"training": training, "return_weights": return_weights}
        states, of_encoder = self._encoded(inputs["source_ids"], source_mask, **options)
        time = num_tokens(token_ids)
        positions = tf.range(time)
        mask = shared_bias(whole=return_weights, query_time=time, dtype=self.compute_dtype)
        x, of_decoder = self.decoder(
            self._embedded(token_ids, positions, training),
            bias=self.decoder.with_position_bias(mask, positions, positions),
            contexts=states,
            context_bias=self.source_bias(source_mask),
            **options,
        )
        weights = None
        if return_weights:
            own, cross = zip(*of_decoder, strict=True)
            weights = {"encoder": of_encoder, "decoder": list(own), "cross": list(cross)}
        return self._scaled(x), weights

    def encode(
        self,
        source_ids: tf.Tensor,
        source_mask: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        """The encoder's states `[B, S, E]`, in the compute dtype.

        Args:
            source_ids: int `[B, S]`.
            source_mask: bool `[B, S]`, true for tokens. Defaults to all true.
            training: whether dropout is applied.
        """
        return self._encoded(source_ids, source_mask, training=training)[0]

    def _encoded(
        self, source_ids: Any, source_mask: Any, **options: Any
    ) -> tuple[tf.Tensor, list[Any]]:
        source_ids = self._checked(source_ids, "source")
        time = num_tokens(source_ids)
        mask = shared_bias(
            whole=options.get("return_weights", False),
            query_time=time,
            causal=False,
            padding_mask=source_mask,
            dtype=self.compute_dtype,
        )
        positions = tf.range(time)
        bias = self.encoder.with_position_bias(mask, positions, positions)
        x = self._embedded(source_ids, positions, options["training"])
        return self.encoder(x, bias=bias, **options)

    def source_bias(self, source_mask: tf.Tensor | None) -> tf.Tensor:
        """The bias that masks a source's padding, `[1 or B, 1, 1, 1 or S]`."""
        return shared_bias(
            query_time=1, causal=False, padding_mask=source_mask, dtype=self.compute_dtype
        )

    def encoded_source(
        self, source_ids: tf.Tensor, source_mask: tf.Tensor | None = None
    ) -> EncodedSource:
        """Encode sources for decoding; for the arguments see `encode`."""
        states = self.encode(source_ids, source_mask)
        return EncodedSource(
            tuple(b.cross_attention.context_key_value(states) for b in self.decoder.blocks),
            self.source_bias(source_mask),
        )

    def next_states(
        self,
        token_ids: tf.Tensor,
        source: EncodedSource,
        caches: tuple[tf.Tensor, ...],
        cache_index: int | tf.Tensor,
        *,
        position: tf.Tensor,
        key_positions: tf.Tensor,
        mask: tf.Tensor,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """One decoding step, for one or several texts per row.

        Args:
            token_ids: int `[B, K]`, the last token of each of a row's K texts.
            source: result of `encoded_source`.
            caches: keys and values of earlier tokens, `[2, B, N, C, D]` for each block.
            cache_index: int32 scalar, the first of the K cache positions that are written.
            position: int32 scalar, position of the tokens in their texts.
            key_positions: int32 `[C]`, position in its text of the token at each cache position.
            mask: `[1 or B, 1, K, C]`, added to the attention scores.

        Returns:
            states `[B * K, E]` in the compute dtype, and the new caches.
        """
        num = token_ids.shape[1]
        position = tf.reshape(position, [1])
        x = self._embedded(token_ids, position, training=False)
        if num == 1:  # `[B, E]`: fewer operations, whose overhead exceeds their arithmetic
            x = tf.squeeze(x, 1)
        x, caches = self.decoder(
            x,
            bias=self.decoder.with_position_bias(mask, position, key_positions),
            context_bias=source.bias,
            context_keys_values=source.keys_values,
            caches=caches,
            cache_index=cache_index,
        )
        return self._scaled(tf.reshape(x, [-1, self.config.embedding_dim])), tuple(caches)

    def empty_caches(
        self, batch_size: int | tf.Tensor, length: int | tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """An empty cache with `length` positions for each block of the decoder."""
        heads, dim = self.config.num_heads, self.config.head_dim
        shape = tf.stack([2, batch_size, heads, length, dim])
        return tuple(
            tf.ensure_shape(tf.zeros(shape, self.compute_dtype), [2, None, heads, None, dim])
            for _ in self.decoder.blocks
        )

    def attention_weights(self, inputs: Any) -> dict[str, list[tf.Tensor]]:
        """Each layer's attention weights: "encoder" `[B, N, S, S]`, "decoder" `[B, N, T, T]`, and
        "cross" `[B, N, T, S]`."""
        weights = self.hidden_states(inputs, return_weights=True)[1]
        assert weights is not None
        return weights

    def _embedded(
        self, token_ids: tf.Tensor, positions: tf.Tensor, training: bool | None
    ) -> tf.Tensor:
        x = tf.cast(self.token_embedding(token_ids), tf.float32)
        if self.config.scaled_embedding:
            x *= math.sqrt(self.config.embedding_dim)
        if self.positions is not None:
            x += self.positions(x, positions)
        if training and self.config.dropout:
            x = dropout(x, self.config.dropout, next_seed(self.seed_generator))
        return x

    def _scaled(self, states: tf.Tensor) -> tf.Tensor:
        if not self.config.scaled_output:
            return states
        return states * tf.constant(self.config.embedding_dim**-0.5, states.dtype)

    def _checked(self, token_ids: Any, what: str) -> tf.Tensor:
        return checked_tokens(token_ids, self.config, what=what)

    # ------------------------------------------------------------------ training

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, ...]:
        """Sums of the tokens' losses and of their weights, without holding all logits at once."""
        share = self.label_smoothing if training else 0.0
        if logits is not None:
            loss, total = super().loss_sums(x, y, weights, training=training, logits=logits)
            if share:
                of_label = tf.gather(logits, y, batch_dims=2)
                loss += share * tf.reduce_sum((of_label - tf.reduce_mean(logits, -1)) * weights)
            return loss, total
        states, _ = self.hidden_states(x, training=training)
        rows = tf.reshape(states, [-1, self.config.embedding_dim])
        kernel = tf.cast(self.output_weights, rows.dtype)
        labels, counts = tf.reshape(tf.cast(y, tf.int32), [-1]), tf.reshape(weights, [-1])
        extra: tf.Tensor = tf.constant(0.0)
        if share:
            extra = share * self._smoothing(rows, kernel, labels, counts)
        if self.output_bias is not None:
            # A column of ones, and one of biases in the kernel: the product adds the biases.
            ones = tf.ones([tf.shape(rows)[0], 1], rows.dtype)
            constants = tf.transpose(tf.cast(tf.convert_to_tensor(self.output_bias), rows.dtype))
            rows = tf.ensure_shape(tf.concat([rows, ones], 1), [None, rows.shape[1] + 1])
            kernel = tf.concat([kernel, constants], 1)
        loss = linear_cross_entropy(
            rows,
            kernel,
            labels,
            counts,
            with_gradient=training,
            with_kernel_gradient=self.output_variable.trainable,
        )
        return loss + extra, tf.reduce_sum(weights)

    def _smoothing(
        self, rows: tf.Tensor, kernel: tf.Tensor, labels: tf.Tensor, counts: tf.Tensor
    ) -> tf.Tensor:
        """Sum over rows of the label's logit minus the mean of all logits.

        Cross-entropy with a smoothing of e is plain cross-entropy plus e times this. Logits are
        products, so the mean of a row's logits is its product with the mean of the kernel's rows.
        """
        kernel = tf.cast(kernel, tf.float32)
        apart = tf.gather(kernel, labels) - tf.reduce_mean(kernel, 0)
        differences = tf.reduce_sum(tf.cast(rows, tf.float32) * apart, -1)
        if self.output_bias is not None:
            constants = tf.convert_to_tensor(self.output_bias)[0]
            differences += tf.gather(constants, labels) - tf.reduce_mean(constants)
        return tf.reduce_sum(differences * counts)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the logits, `[B, T, V]`, for the shape of token ids or inputs."""
        return (*ids_shape(input_shape), self.config.vocab_size)

    # ------------------------------------------------------------------ copies

    def with_dtype(self, dtype: Any) -> EncoderDecoder:
        """A copy with another dtype policy, such as "bfloat16" or "int8"; weights are cast."""
        copy = type(self)(
            self.config,
            label_smoothing=self.label_smoothing,
            seed=None,
            dtype=dtype,
            name=self.name,
        )
        assign_weights(copy.weights, self.weights)
        return self.copied_to(copy)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "config": dataclasses.asdict(self.config),
            "label_smoothing": self.label_smoothing,
            "seed": self.seed,
            "rematerialize": self.rematerialize,
        }


def _embedding_deviation(config: EncoderDecoderConfig) -> float:
    """The standard deviation that gives the input of the first block a variance of 1."""
    return config.embedding_dim**-0.5 if config.scaled_embedding else 1.0


def _normal(deviation: float, seed: int | None, name: str) -> Any:
    if seed is None:
        return keras.initializers.Zeros()
    return forked(keras.initializers.RandomNormal(stddev=deviation, seed=seed), name)


def _projections(config: EncoderDecoderConfig, seed: int | None) -> Any:
    """The initializer of the blocks' projections: T5's for pre-norm models, else Glorot's."""
    if seed is None:
        return keras.initializers.Zeros()
    if not config.norm_first:
        return keras.initializers.GlorotUniform(seed=seed)
    # Projections are stored as [output, input], so Keras' fan-out is their number of inputs.
    return keras.initializers.VarianceScaling(1.0, "fan_out", "untruncated_normal", seed=seed)
