"""An encoder that gives a text one of several labels."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.models.heads.encoder_head import LabelledHead
from tfllm.models.token_ids import ids_shape


@keras.saving.register_keras_serializable("tfllm")
class SequenceClassifier(LabelledHead):
    """One label for a row, from BERT's pooler over its first token (Devlin et al., 2019).

    Data are `(inputs, labels int [B])`, or with weights `[B]`. Besides the loss, `accuracy` is
    logged.

    Args: as of `LabelledHead`.

    Call arguments: as of `Encoder`.

    Returns:
        logits, float32 `[B, num_labels]`.
    """

    pooler = "used"

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """The logits of a row's label."""
        states, _ = self.encoder.hidden_states(inputs, training=training)
        return self.classifier(self._dropped(self.encoder.pooled(states), training))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Of a call: `[B, num_labels]`, from the shape of token ids or inputs."""
        return (ids_shape(input_shape)[0], self.num_labels)
