"""Perplexity as a Keras metric."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfllm")
class Perplexity(keras.metrics.Mean):
    """Perplexity: exp of the mean loss per token."""

    def __init__(self, name: str = "perplexity", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def result(self) -> tf.Tensor:
        """The perplexity so far, a float32 scalar."""
        return tf.exp(super().result())
