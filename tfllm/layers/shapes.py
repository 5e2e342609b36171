"""Shapes that are static where they can be."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class ShapeShown:
    """For layers with `compute_output_shape`, which `summary()` needs: before `keras.layers.Layer`.

    Keras takes a layer that has it to give its compute dtype, and calls it no more to find out; the
    states of a block, and logits, are float32 whatever the policy.
    """

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """What a call gives, found by tracing one."""
        return keras.Operation.compute_output_spec(self, *args, **kwargs)


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
