"""An encoder that gives each token one of several labels."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.models.heads.encoder_head import LabelledHead
from tfllm.models.token_ids import ids_shape


@keras.saving.register_keras_serializable("tfllm")
class TokenClassifier(LabelledHead):
    """One label for each token, from its state.

    Data are `(inputs, labels int [B, T], weights [B, T])`, the weights 0 for tokens whose label
    does not count. Besides the loss, `accuracy` over the tokens that count is logged.

    Args: as of `LabelledHead`.

    Call arguments: as of `Encoder`.

    Returns:
        logits, float32 `[B, T, num_labels]`.
    """

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """The logits of each token's label."""
        states, _ = self.encoder.hidden_states(inputs, training=training)
        return self.classifier(self._dropped(states, training))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Of a call: `[B, T, num_labels]`, from the shape of token ids or inputs."""
        return (*ids_shape(input_shape), self.num_labels)
