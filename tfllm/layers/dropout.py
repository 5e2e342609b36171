"""Dropout whose mask is a function of a seed, so that a block can be recomputed exactly."""

from __future__ import annotations

import zlib
from typing import Any

import tensorflow as tf

_DRAWN = 2**16
"""how many numbers an element's is drawn from"""


def named_seed(seed: int | None, name: str) -> int | None:
    """The seed of a layer's dropout, a function of the model's and the layer's name."""
    return None if seed is None else zlib.crc32(f"{seed}/dropout/{name}".encode()) >> 1


def next_seed(generator: Any) -> tf.Tensor:
    """A `keras.random.SeedGenerator`'s next seed, int32 `[2]` (Keras' own dtype for it varies)."""
    return tf.cast(generator.next(), tf.int32)


def shifted(seed: tf.Tensor | None, number: int) -> tf.Tensor | None:
    """Another seed, of the mask with this number among those that are made from one seed."""
    # Not the second word: it counts calls, so the next call's first mask would be this one's.
    return None if seed is None else seed + tf.constant([number << 24, 0], tf.int32)


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
    # 16 bits an element: drawing is what dropout costs, and a rate is not meant to 1 in 100,000.
    size = tf.size(x)
    words = tf.random.stateless_uniform([(size + 1) // 2], seed, None, None, tf.int32)
    drawn = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:size]
    dropped = max(1, min(round(rate * _DRAWN), _DRAWN - 1))
    keep = tf.reshape(drawn >= tf.constant(dropped, tf.uint16), tf.shape(x))
    scaled = x * tf.constant(_DRAWN / (_DRAWN - dropped), x.dtype)
    return tf.where(keep, scaled, tf.zeros([], x.dtype))
