"""Refusal of strategies that Keras accepts on TensorFlow but silently gets wrong."""

from __future__ import annotations

import keras
import tensorflow as tf


def refuse_unsupported(current: tf.distribute.Strategy) -> None:
    """Raise an error for strategies that Keras accepts on TensorFlow but gets wrong.

    Args:
        current: the `tf.distribute` strategy of the model.

    Raises:
        ValueError: `keras.distribution` is in use, or `current` is a parameter-server strategy.
    """
    if keras.distribution.distribution() is not None:
        raise ValueError(
            "keras.distribution does nothing on TensorFlow: everything would run on one device. "
            "Remove it with keras.distribution.set_distribution(None), and use tf.distribute "
            f"(tfllm.training.strategy); received {keras.distribution.distribution()!r}"
        )
    if isinstance(
        current,
        tf.distribute.ParameterServerStrategy | tf.distribute.experimental.ParameterServerStrategy,
    ):
        raise ValueError(
            "a parameter-server strategy cannot run a training step that reduces gradients once "
            "over all replicas, and Keras 3 fails under it; use MultiWorkerMirroredStrategy; "
            f"received {type(current).__name__}"
        )
