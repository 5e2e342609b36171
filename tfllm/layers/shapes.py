"""Shapes of tensors, static where possible."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class ShapeShown:
    """Mixin for layers with `compute_output_shape`, which `summary()` needs.

    It precedes `keras.layers.Layer` among the bases. From a layer that has that method Keras
    expects outputs in its compute dtype, and no longer traces a call to find out; but the states of
    a block, and logits, are float32 whatever the policy.
    """

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """The output of a call, found by tracing one."""
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
