"""Dropout whose mask is a function of a seed, so that a block can be recomputed exactly."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def next_seed(generator: Any) -> tf.Tensor:
    """A `keras.random.SeedGenerator`'s next seed, int32 `[2]` (Keras' own dtype for it varies)."""
    return tf.cast(generator.next(), tf.int32)


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Zero a share of x's elements and scale the others up.

    Args:
        x: float, any shape.
        rate: the share that becomes zero.
        seed: int32 `[2]`; the same seed gives the same mask.

    Returns:
        x's shape and dtype.
    """
    if rate == 0:
        return x
    keep = tf.random.stateless_uniform(tf.shape(x), seed) >= rate
    return tf.where(keep, x / tf.cast(1 - rate, x.dtype), tf.zeros([], x.dtype))
