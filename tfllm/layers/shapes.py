"""Shapes that are static where they can be."""

from __future__ import annotations

import tensorflow as tf


def shape_of(x: tf.Tensor) -> list[int | tf.Tensor]:
    """The sizes of x's axes: a number where it is known, a scalar tensor where it is not.

    One unknown size is given as -1, which `tf.reshape` fills in without an operation of its own.
    """
    static = x.shape.as_list()
    unknown = static.count(None)
    if unknown == 0:
        return static
    if unknown == 1:
        return [-1 if size is None else size for size in static]
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(static)]
