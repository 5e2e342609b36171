"""Relative positions as a learned bias of attention (T5).

Shape letters: T query time, S key time, N heads.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def distance_buckets(num_buckets: int, max_distance: int, *, bidirectional: bool) -> np.ndarray:
    """The bucket of each distance between a key and a query, from -max_distance to max_distance.

    Half of the buckets hold one distance each; the other half become wider up to max_distance, and
    the last one also holds all larger distances. With `bidirectional`, half of all buckets are for
    keys after the query, which otherwise share bucket 0.

    Returns:
        int32 `[2 * max_distance + 1]`.
    """
    distance = np.arange(-max_distance, max_distance + 1)
    first = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        first = np.where(distance > 0, num_buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = num_buckets // 2
    # In float32, since rounding decides the bucket of a distance at an edge.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    wide = exact + (ratio / math.log(max_distance / exact) * (num_buckets - exact)).astype(int)
    bucket = np.where(distance < exact, distance, np.minimum(wide, num_buckets - 1))
    return (first + bucket).astype(np.int32)


@keras.saving.register_keras_serializable("tfllm")
class RelativePositionBias(keras.layers.Layer):
    """Learned attention bias for each head and bucket of distances (Raffel et al., T5, 2020).

    Args:
        num_heads: number of attention heads N.
        num_buckets: number of buckets of distances; even, and a multiple of 4 with
            `bidirectional`. Defaults to 32.
        max_distance: distance from which on all distances share a bucket. Defaults to 128.
        bidirectional: use separate buckets for keys after the query. Defaults to False.
        initializer: initializer of the table `[num_buckets, N]`, which is float32. Defaults to
            "zeros".

    Call arguments:
        queries: int `[T]`, positions of the queries.
        keys: int `[S]`, positions of the keys.

    Returns:
        `[1, N, T, S]` in the compute dtype, to be added to attention's scores.

    Examples:
        >>> bias = tfllm.layers.RelativePositionBias(num_heads=4)
        >>> bias(tf.range(5), tf.range(5)).shape
        TensorShape([1, 4, 5, 5])
    """

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = False,
        initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        exact = num_buckets // (4 if bidirectional else 2)
        if exact < 1 or num_buckets % (4 if bidirectional else 2) or max_distance <= exact:
            raise ValueError(
                "num_buckets must be even (with bidirectional: a multiple of 4), and max_distance "
                f"larger than the number of buckets of one distance each ({exact}); received "
                f"num_buckets={num_buckets}, max_distance={max_distance}, "
                f"bidirectional={bidirectional}"
            )
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.initializer = keras.initializers.get(initializer)
        self._buckets = distance_buckets(num_buckets, max_distance, bidirectional=bidirectional)

    def build(self, queries_shape: Any, keys_shape: Any = None) -> None:
        """Create the table."""
        del queries_shape, keys_shape
        self.table = self.add_weight(
            name="table",
            shape=(self.num_buckets, self.num_heads),
            initializer=self.initializer,
            dtype="float32",
            autocast=False,
        )
        self.built = True

    def call(self, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Look up the bias of each distance."""
        most = self.max_distance
        distance = tf.clip_by_value(keys - queries[:, tf.newaxis], -most, most) + most
        buckets = tf.gather(self._buckets, distance)
        values = tf.gather(tf.convert_to_tensor(self.table), buckets)
        return tf.cast(tf.transpose(values, [2, 0, 1])[tf.newaxis], self.compute_dtype)

    def compute_output_shape(
        self, queries_shape: Any, keys_shape: Any = (None,)
    ) -> tuple[int | None, ...]:
        """`[1, N, T, S]`."""
        return (1, self.num_heads, queries_shape[0], keys_shape[0])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "initializer": keras.initializers.serialize(self.initializer),
        }
