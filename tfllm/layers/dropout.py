"""Dropout whose mask is a function of a seed, so that a block can be recomputed exactly."""

from __future__ import annotations

import zlib
from typing import Any

import tensorflow as tf

_DRAWN = 2**16
"""number of values that a random number can have"""


def named_seed(seed: int | None, name: str) -> int | None:
    """The seed of a layer's dropout, derived from the model's seed and the layer's name."""
    return None if seed is None else zlib.crc32(f"{seed}/dropout/{name}".encode()) >> 1


def next_seed(generator: Any) -> tf.Tensor:
    """The next seed of a `keras.random.SeedGenerator`, int32 `[2]` (its dtype in Keras varies)."""
    return tf.cast(generator.next(), tf.int32)


def shifted(seed: tf.Tensor | None, number: int) -> tf.Tensor | None:
    """The seed of the mask with this number, where several masks are made from one seed."""
    # The first word changes and not the second, which counts calls: otherwise the first mask of the
    # next call would be this one.
    return None if seed is None else seed + tf.constant([number << 24, 0], tf.int32)


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Set a fraction of x's elements to zero and scale up the others.

    Args:
        x: float, any shape.
        rate: fraction of the elements that are set to zero.
        seed: int32 `[2]`; the same seed gives the same mask.

    Returns:
        a tensor of x's shape and dtype.
    """
    if rate == 0:
        return x
    # 16 bits per element: the cost of dropout is that of drawing random numbers, and a rate need
    # not be exact to 1 in 100,000.
    size = tf.size(x)
    words = tf.random.stateless_uniform([(size + 1) // 2], seed, None, None, tf.int32)
    drawn = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:size]
    dropped = max(1, min(round(rate * _DRAWN), _DRAWN - 1))
    keep = tf.reshape(drawn >= tf.constant(dropped, tf.uint16), tf.shape(x))
    scaled = x * tf.constant(_DRAWN / (_DRAWN - dropped), x.dtype)
    return tf.where(keep, scaled, tf.zeros([], x.dtype))
