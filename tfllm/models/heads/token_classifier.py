"""An encoder that assigns one of several labels to each token."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.models.heads.encoder_head import LabelledHead
from tfllm.models.token_ids import ids_shape


@keras.saving.register_keras_serializable("tfllm")
class TokenClassifier(LabelledHead):
    """One label for each token, from its state.

    Data are `(inputs, labels int [B, T], weights [B, T])`, with weight 0 for tokens whose label
    does not count. The logs also have `accuracy` over the tokens that count.

    Args:
        encoder: the encoder or its architecture; see `EncoderHead`.
        num_labels: number of labels. Defaults to the number of label_names.
        label_names: names of the labels, all different. Defaults to LABEL_0, LABEL_1, ...
        kwargs: other arguments of `EncoderHead`.

    Call arguments: those of `Encoder`.

    Returns:
        logits, float32 `[B, T, num_labels]`.

    Examples:
        >>> config = tfllm.EncoderConfig(64, embedding_dim=16, num_layers=1, num_heads=2)
        >>> model = tfllm.TokenClassifier(config, num_labels=3)
        >>> model(np.ones([2, 5], "int32")).shape
        TensorShape([2, 5, 3])
    """

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """The logits of each token's label."""
        states, _ = self.encoder.hidden_states(inputs, training=training)
        return self.classifier(self._dropped(states, training))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the logits, `[B, T, num_labels]`, for the shape of token ids or inputs."""
        return (*ids_shape(input_shape), self.num_labels)
