"""An encoder that finds a span of its tokens: the answer to a question."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.models.heads.encoder_head import EncoderHead
from tfllm.models.token_ids import ids_shape
from tfllm.optimization.labels import checked_ids


@keras.saving.register_keras_serializable("tfllm")
class SpanClassifier(EncoderHead):
    """The first and the last token of a span (Devlin et al., 2019, section 4.2).

    Data are `(inputs, labels int [B, 2])`: the indices of the first and the last token of the span,
    both 0 if there is none. The loss is the mean of the two cross-entropies over the row's tokens;
    padding is excluded. The logs also have `accuracy`, the fraction of first and last tokens that
    are predicted correctly.

    Args:
        encoder: the encoder or its architecture; see `EncoderHead`.
        kwargs: other arguments of `EncoderHead`.

    Call arguments: those of `Encoder`.

    Returns:
        logits, float32 `[B, T, 2]`: that the span begins at a token, and that it ends there.

    Examples:
        >>> config = tfllm.EncoderConfig(64, embedding_dim=16, num_layers=1, num_heads=2)
        >>> model = tfllm.SpanClassifier(config)
        >>> model(np.ones([2, 5], "int32")).shape
        TensorShape([2, 5, 2])
    """

    step_metrics = ("accuracy",)
    labels_are_classes = False

    def _build_head(self) -> None:
        self.classifier = self._projection("classifier", 2)

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """The logits of the span's beginning and end at each token."""
        states, _ = self.encoder.hidden_states(inputs, training=training)
        return self.classifier(tf.cast(states, tf.float32))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the logits, `[B, T, 2]`, for the shape of token ids or inputs."""
        return (*ids_shape(input_shape), 2)

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, ...]:
        """Sums of weight · cross-entropy, of weights, and of weights of correct predictions."""
        if logits is None:
            logits = self(x, training=training)
        ends = tf.transpose(logits, [0, 2, 1])
        mask = x.get("padding_mask") if isinstance(x, dict) else None
        if mask is not None:
            ends = tf.where(tf.cast(mask, tf.bool)[:, tf.newaxis], ends, -1e9)
        y = checked_ids(y, tf.shape(ends)[-1], what="ends of spans", bound="the number of tokens")
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, ends)
        right = tf.cast(tf.argmax(ends, -1, tf.int32) == y, tf.float32)
        return (
            tf.reduce_sum(losses * weights),
            tf.reduce_sum(weights),
            tf.reduce_sum(right * weights),
        )
