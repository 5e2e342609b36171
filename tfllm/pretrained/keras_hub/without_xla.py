"""Run Keras operations in a graph on a server, where XLA is off.

On TensorFlow, `keras.ops.slice_update` is an op that only XLA can run, even in a function that is
not compiled as a whole; KerasHub uses it to write its caches.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfllm.keras_internals import slices_updated_by

_lock = threading.RLock()


@contextlib.contextmanager
def without_xla() -> Iterator[None]:
    """Make what is traced inside the block update slices with an op of TensorFlow's core."""
    with _lock, slices_updated_by(_slice_update):
        yield


def _slice_update(inputs: Any, start_indices: Sequence[Any] | tf.Tensor, updates: Any) -> tf.Tensor:
    """`inputs` with `updates` written from an index on, where they must fit."""
    inputs, updates = tf.convert_to_tensor(inputs), tf.convert_to_tensor(updates)
    begin = tf.cast(tf.stack(start_indices), tf.int32)
    updated = tf.raw_ops.TensorStridedSliceUpdate(
        input=inputs,
        begin=begin,
        end=begin + tf.shape(updates),
        strides=tf.ones_like(begin),
        value=updates,
    )
    return tf.ensure_shape(updated, inputs.shape)
