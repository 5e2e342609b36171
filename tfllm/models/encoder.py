"""A Transformer encoder, from token ids to a state for each token, which depends on all others.

Shape letters: B batch, T time, E width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import build
from tfllm.keras_internals import forget_layer, unlocked
from tfllm.layers.block_config import BlockConfig
from tfllm.layers.dropout import dropout, named_seed, next_seed
from tfllm.layers.masks import shared_bias
from tfllm.layers.normalization import LayerNorm
from tfllm.layers.positions import LearnedPositions, positions_in_segments
from tfllm.layers.projection import Projection, forked
from tfllm.layers.quantized import assign_weights
from tfllm.models.blocks import run_blocks, transformer_blocks
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.token_ids import checked_tokens, ids_shape, num_tokens
from tfllm.models.verbs import ModelVerbs
from tfllm.models.vocabulary import embedding_table
from tfllm.optimization.labels import checked_ids
from tfllm.optimization.precision import keras_policy
from tfllm.optimization.training_step import TrainingStep


@keras.saving.register_keras_serializable("tfllm")
class Encoder(ModelVerbs, TrainingStep):
    """A BERT-like encoder (Devlin et al., 2019), as a Keras model.

    By itself it has no loss; models with a head, such as `SequenceClassifier`, do.

    Args:
        config: the architecture, an `EncoderConfig` or a dictionary of its fields.
        pooler: add BERT's pooler, a layer over the first token's state (`pooled`). Defaults to
            False.
        seed: seed of the initial weights and of dropout. With None the weights are 0, to be
            assigned. Defaults to 0.
        rematerialize: recompute each block in the backward pass instead of keeping its activations.
            Defaults to False.
        dtype: dtype policy, as for `CausalLM`.

    Call arguments:
        inputs: a dictionary with `token_ids`, int `[B, T]`, and, optionally, `padding_mask` (bool
            `[B, T]`, true for tokens), `token_type_ids` (int `[B, T]`, default 0) and `segment_ids`
            (int `[B, T]`, texts that must not see one another; each begins at position 0); or only
            the token ids.
        training: whether dropout is applied.

    Returns:
        states, float32 `[B, T, E]`.

    Examples:
        >>> config = tfllm.EncoderConfig(64, embedding_dim=16, num_layers=1, num_heads=2)
        >>> encoder = tfllm.Encoder(config)
        >>> encoder(np.ones([2, 5], "int32")).shape
        TensorShape([2, 5, 16])
    """

    built: bool

    def __init__(
        self,
        config: EncoderConfig | dict[str, Any],
        *,
        pooler: bool = False,
        seed: int | None = 0,
        rematerialize: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = keras_policy(kwargs.get("dtype"))
        super().__init__(**kwargs)
        self.config = config = build(EncoderConfig, config) if isinstance(config, dict) else config
        self.seed = seed
        self.rematerialize = rematerialize
        options: dict[str, Any] = {"dtype": self.dtype_policy}
        normal = normal_initializer(config, seed)
        self.token_embedding = self._table(config.vocab_size, "token_embedding")
        self.position_embedding = LearnedPositions(
            config.max_sequence_length,
            initializer=forked(normal, "position_embedding"),
            name="position_embedding",
            **options,
        )
        self.token_type_embedding = self._table(config.num_token_types, "token_type_embedding")
        self.embedding_norm = LayerNorm(
            epsilon=config.norm_epsilon, name="embedding_norm", **options
        )
        block = BlockConfig(
            num_heads=config.num_heads,
            hidden_dim=config.feed_forward_dim,
            norm="layer",
            norm_epsilon=config.norm_epsilon,
            norm_first=False,
            activation=config.activation,
            gated=False,
            use_bias=True,
            dropout=config.dropout,
        )
        self.blocks = transformer_blocks(
            [block] * config.num_layers,
            kernel_initializer=normal,
            seed=seed,
            rematerialize=rematerialize,
            **options,
        )
        self.seed_generator = (
            keras.random.SeedGenerator(named_seed(seed, "embedding")) if config.dropout else None
        )
        self.pooler: Projection | None = None
        self.build((None, None))
        if pooler:
            self.add_pooler()
        self._keep_floats_alone()

    def _table(self, size: int, name: str) -> Any:
        normal = forked(normal_initializer(self.config, self.seed), name)
        width = self.config.embedding_dim
        return embedding_table(size, width, normal, name=name, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Create all weights; they do not depend on the input's shape."""
        del input_shape
        if self.built:
            return
        hidden = (None, None, self.config.embedding_dim)
        for table in (self.token_embedding, self.token_type_embedding):
            table.build((None, None))
        layers: list[Any] = [self.position_embedding, self.embedding_norm, *self.blocks]
        for layer in layers:
            with tf.name_scope(layer.name):
                layer.build(hidden)
        self.built = True

    def add_pooler(self) -> None:
        """Add a pooler with new weights, if the encoder has none."""
        if self.pooler is not None:
            return
        pooler = Projection(
            self.config.embedding_dim,
            use_bias=True,
            kernel_initializer=forked(normal_initializer(self.config, self.seed), "pooler"),
            name="pooler",
            dtype="float32",
        )
        with keras.name_scope(self.name):
            pooler.build((None, self.config.embedding_dim))
        pooler.quantized_alone = False
        with unlocked(self):
            self.pooler = pooler

    def remove_pooler(self) -> None:
        """Remove the pooler, which not every head uses."""
        pooler, self.pooler = self.pooler, None
        if pooler is not None:
            forget_layer(self, pooler)

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """The states of all tokens."""
        return tf.cast(self.hidden_states(inputs, training=training)[0], tf.float32)

    def hidden_states(
        self, inputs: Any, *, training: bool | None = None, return_weights: bool = False
    ) -> tuple[tf.Tensor, list[tf.Tensor] | None]:
        """States `[B, T, E]` in the compute dtype; each layer's attention weights, or None.

        Args:
            inputs: as in `call`.
            training: whether dropout is applied.
            return_weights: also return the attention weights, `[B, heads, T, T]` per layer.
        """
        given = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
        token_ids = checked_tokens(given["token_ids"], self.config)
        padding_mask, segment_ids = given.get("padding_mask"), given.get("segment_ids")
        bias = shared_bias(
            whole=return_weights,
            query_time=num_tokens(token_ids),
            causal=False,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            dtype=self.compute_dtype,
        )
        x = self._embedded(token_ids, given.get("token_type_ids"), segment_ids)
        if training and self.config.dropout:
            x = dropout(x, self.config.dropout, next_seed(self.seed_generator))
        of_all = {"bias": bias, "training": training, "return_weights": return_weights}
        x, weights = run_blocks(x, self.blocks, None, {}, **of_all)
        return x, weights or None

    def _embedded(self, token_ids: tf.Tensor, token_type_ids: Any, segment_ids: Any) -> tf.Tensor:
        """The sum of token, position and type embeddings, normalized: `[B, T, E]`."""
        x = tf.cast(self.token_embedding(token_ids), tf.float32)
        positions = None if segment_ids is None else positions_in_segments(segment_ids)
        x += tf.cast(self.position_embedding(x, positions), tf.float32)
        types = tf.zeros([1, 1], tf.int32)
        if token_type_ids is not None:
            types = checked_ids(
                token_type_ids,
                self.config.num_token_types,
                what="token_type_ids",
                bound="num_token_types",
            )
        x += tf.cast(self.token_type_embedding(types), tf.float32)
        return self.embedding_norm(x)

    def pooled(self, states: tf.Tensor) -> tf.Tensor:
        """BERT's summary of a row: tanh of a projection of its first state, float32 `[B, E]`."""
        assert self.pooler is not None, "the encoder has no pooler"
        return tf.tanh(self.pooler(tf.cast(states[:, 0], tf.float32)))

    def attention_weights(self, inputs: Any) -> list[tf.Tensor]:
        """Each layer's attention weights, `[B, num_heads, T, T]`."""
        weights = self.hidden_states(inputs, return_weights=True)[1]
        assert weights is not None
        return weights

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the states, `[B, T, E]`, for the shape of token ids or inputs."""
        return (*ids_shape(input_shape), self.config.embedding_dim)

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, ...]:
        """Raise an error, since an encoder without a head has no loss.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "an Encoder without a head has no loss; train a model with a head, such as "
            "SequenceClassifier(encoder, num_labels=2), or compile(loss=...)"
        )

    def with_dtype(self, dtype: Any) -> Encoder:
        """A copy with another dtype policy, such as "bfloat16" for serving; weights are cast."""
        copy = type(self)(
            self.config, pooler=self.pooler is not None, seed=None, dtype=dtype, name=self.name
        )
        assign_weights(copy.weights, self.weights)
        return self.copied_to(copy)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "config": dataclasses.asdict(self.config),
            "pooler": self.pooler is not None,
            "seed": self.seed,
            "rematerialize": self.rematerialize,
        }


def normal_initializer(config: EncoderConfig, seed: int | None) -> Any:
    """The initializer of an encoder's weights; zeros without a seed."""
    if seed is None:
        return keras.initializers.Zeros()
    return keras.initializers.RandomNormal(stddev=config.initializer_range, seed=seed)
