"""An encoder that predicts masked tokens: how BERT is pretrained.

Shape letters: B batch, T time, E width, V vocabulary, R masked tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.feed_forward import ACTIVATIONS
from tfllm.layers.normalization import LayerNorm
from tfllm.layers.projection import Projection, forked
from tfllm.layers.quantized import dequantized, is_int8
from tfllm.models.encoder import Encoder, normal_initializer
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.encoder_head import EncoderHead
from tfllm.models.token_ids import checked_tokens, ids_shape
from tfllm.models.token_masking import TokenMasking, mask_tokens
from tfllm.optimization.linear_cross_entropy import linear_cross_entropy


@keras.saving.register_keras_serializable("tfllm")
class MaskedLanguageModel(EncoderHead):
    """An encoder that predicts masked tokens (Devlin et al., 2019, section 3.1).

    Data are `(inputs, labels int [B, T], weights [B, T])`: the original tokens, and 1 for the
    positions that count. The loss computes logits for those positions only. The output projection
    is the token embedding.

    With `masking` the step hides tokens itself, different ones at each step: data are then rows of
    unmasked text, `({"token_ids", ...}, any labels int [B, T], weights [B, T])`, with weight 0 for
    tokens not to hide, such as those of `tfllm.data.rows_dataset`. In evaluation the hidden tokens
    of a row are always the same.

    Args:
        encoder: the encoder or its architecture; see `EncoderHead`.
        masking: how tokens are hidden, a `TokenMasking` or a dictionary of its fields. Defaults to
            None: the data have hidden tokens.
        kwargs: other arguments of `EncoderHead`.

    Call arguments: those of `Encoder`.

    Returns:
        logits, float32 `[B, T, V]`.

    Examples:
        >>> config = tfllm.EncoderConfig(64, embedding_dim=16, num_layers=1, num_heads=2)
        >>> model = tfllm.MaskedLanguageModel(config)
        >>> model(np.ones([2, 5], "int32")).shape
        TensorShape([2, 5, 64])
    """

    is_log_loss = True

    def __init__(
        self,
        encoder: Encoder | EncoderConfig | dict[str, Any],
        *,
        masking: TokenMasking | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(masking, Mapping):
            masking = TokenMasking(**masking)
        self.masking = masking
        super().__init__(encoder, **kwargs)
        self.labels_are_classes = masking is None  # else the step replaces the labels

    classes_name = "vocab_size"

    @property
    def num_classes(self) -> int:
        """The size of the vocabulary, since labels are tokens."""
        return self.config.vocab_size

    def _build_head(self) -> None:
        config, options = self.config, {"dtype": self.dtype_policy}
        initializer = normal_initializer(config, self.seed)
        self.transform = Projection(
            config.embedding_dim,
            use_bias=True,
            kernel_initializer=forked(initializer, "transform"),
            name="transform",
            **options,
        )
        self.transform.build((None, config.embedding_dim))
        self.transform_norm = LayerNorm(
            epsilon=config.norm_epsilon, name="transform_norm", **options
        )
        self.transform_norm.build((None, config.embedding_dim))
        self.output_bias = self.add_weight(
            name="output_bias",
            shape=(config.vocab_size,),
            initializer="zeros",
            dtype="float32",
            autocast=False,
        )

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """The logits of all tokens at all positions."""
        states, _ = self.encoder.hidden_states(inputs, training=training)
        logits = self.logits(tf.reshape(states, [-1, self.config.embedding_dim]))
        shape = tf.concat([tf.shape(states)[:2], [self.config.vocab_size]], 0)
        return tf.ensure_shape(
            tf.reshape(logits, shape), [*states.shape[:2], self.config.vocab_size]
        )

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """The logits for the states `[R, E]` of some positions, float32 `[R, V]`."""
        logits = tf.matmul(self._transformed(states), self._output_weights(), transpose_b=True)
        return tf.cast(logits, tf.float32) + tf.convert_to_tensor(self.output_bias)

    def _transformed(self, rows: tf.Tensor) -> tf.Tensor:
        """The transformed states `[R, E]`, which are multiplied by the embedding."""
        return self.transform_norm(ACTIVATIONS[self.config.activation](self.transform(rows)))

    def _output_weights(self) -> tf.Tensor:
        embedding = self.encoder.token_embedding
        if is_int8(self.dtype_policy):
            return dequantized(embedding.embeddings, embedding.embeddings_scale, self.compute_dtype)
        return tf.cast(tf.convert_to_tensor(embedding.embeddings), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the logits, `[B, T, V]`, for the shape of token ids or inputs."""
        return (*ids_shape(input_shape), self.config.vocab_size)

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, ...]:
        """Sums of losses and weights, with logits only for the positions that count."""
        if self.masking is not None:
            x, y, weights = self._masked(x, weights, training)
        elif logits is not None:
            return super().loss_sums(x, y, weights, training=training, logits=logits)
        states, _ = self.encoder.hidden_states(x, training=training)
        rows = tf.reshape(states, [-1, self.config.embedding_dim])
        labels, counts = tf.reshape(y, [-1]), tf.reshape(weights, [-1])
        if not self.jit_compile:  # XLA does not support shapes that depend on values
            place = tf.where(counts > 0)[:, 0]
            rows, labels, counts = (tf.gather(t, place) for t in (rows, labels, counts))
        hidden = self._transformed(rows)
        kernel = self._output_weights()
        # A column of ones and one of biases: the product adds the bias.
        bias = tf.cast(tf.convert_to_tensor(self.output_bias), kernel.dtype)
        ones = tf.ones([tf.shape(hidden)[0], 1], hidden.dtype)
        loss = linear_cross_entropy(
            tf.ensure_shape(
                tf.concat([hidden, ones], 1), [hidden.shape[0], self.config.embedding_dim + 1]
            ),
            tf.concat([kernel, bias[:, tf.newaxis]], 1),
            labels,
            counts,
            with_gradient=training,
            with_kernel_gradient=self.encoder.token_embedding.trainable,
        )
        return loss, tf.reduce_sum(weights)

    def _masked(self, x: Any, weights: tf.Tensor, training: bool) -> tuple[Any, Any, Any]:
        """Inputs with hidden tokens, the original tokens, and weights that are 0 for all others."""
        assert self.masking is not None
        given = x if isinstance(x, dict) else {"token_ids": x}
        token_ids = checked_tokens(given["token_ids"], self.config)
        candidates = weights > 0
        if given.get("padding_mask") is not None:
            candidates &= tf.cast(given["padding_mask"], tf.bool)
        step = tf.cast(self.optimizer.iterations, tf.int32) if training else -1
        rows = mask_tokens(token_ids, candidates, step, self.masking, self.config.vocab_size)
        weights = weights * tf.cast(rows.hidden, tf.float32)
        return {**given, "token_ids": rows.token_ids}, token_ids, weights

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        masking = None if self.masking is None else dataclasses.asdict(self.masking)
        return {**super().get_config(), "masking": masking}
