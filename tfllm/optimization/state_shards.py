"""Optimizer state that is sharded over the replicas (ZeRO stage 1).

The flattened elements of each weight, padded to a multiple of the number of replicas, are cut into
equal parts, one per replica; replica r keeps the state of part r and updates part r of the weight,
and the replicas then gather all parts in one collective.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class StateShards:
    """One value of state for each element of some weights, sharded over the replicas.

    Args:
        variables: the weights.
        kind: name of the state, such as "momentum".
        strategy: strategy over whose replicas it is sharded.
    """

    def __init__(self, variables: list[Any], kind: str, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self._replicas = strategy.num_replicas_in_sync
        self._shapes = [tuple(v.shape) for v in variables]
        with strategy.scope():
            self._parts = [
                tf.Variable(
                    tf.zeros([-(-int(np.prod(v.shape)) // self._replicas)], v.dtype),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.NONE,
                    name=f"{v.name}_{kind}_part",
                )
                for v in variables
            ]

    def __getitem__(self, index: int) -> tf.Variable:
        """This replica's part of the state of weight `index`."""
        return self._parts[index]

    @property
    def num_bytes(self) -> int:
        """Size of one replica's parts, in bytes."""
        return sum(int(part.shape[0]) * part.dtype.size for part in self._parts)

    def update_weights(
        self,
        update: Callable[[int, tf.Tensor, tf.Tensor], tf.Tensor],
        indices: list[int],
        gradients: list[Any],
        variables: list[Any],
    ) -> None:
        """Update this replica's parts of the weights and gather the rest; in replica context.

        Args:
            update: maps the index of a weight, and this replica's parts of its gradient and of its
                value, to the new part of its value.
            indices: indices of the weights among those that the state was created for.
            gradients: gradients of the weights, the same on every replica.
            variables: the weights.
        """
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        targets = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        new = [
            update(
                i,
                self._own(tf.convert_to_tensor(gradient), i, replica),
                self._own(tf.convert_to_tensor(weight), i, replica),
            )
            for i, gradient, weight in zip(indices, gradients, targets, strict=True)
        ]
        gathered = tf.concat(new, 0)
        if self._replicas > 1:
            gathered = context.all_gather(gathered, axis=0)
        sizes = [self._parts[i].shape[0] for i in indices]
        rows = tf.split(tf.reshape(gathered, [self._replicas, sum(sizes)]), sizes, axis=1)
        values = [
            tf.reshape(tf.reshape(row, [-1])[: int(np.prod(self._shapes[i]))], self._shapes[i])
            for i, row in zip(indices, rows, strict=True)
        ]

        def assign(strategy: Any, targets: list[tf.Variable], values: list[Any]) -> None:
            for target, value in zip(targets, values, strict=True):
                strategy.extended.update(
                    target, lambda t, v: t.assign(v), args=(value,), group=False
                )

        tf.__internal__.distribute.interim.maybe_merge_call(assign, self._strategy, targets, values)

    def whole(self) -> list[np.ndarray]:
        """The whole state of each weight, in the weight's shape.

        With several workers, every worker must call this.
        """
        local = [self._strategy.experimental_local_results(part) for part in self._parts]
        if len(local[0]) == self._replicas:
            flat = [np.concatenate([p.numpy() for p in parts]) for parts in local]
        else:  # the other parts are in other processes
            places = np.cumsum([part.shape[0] for part in self._parts])[:-1]
            rows = self._gathered().numpy().reshape(self._replicas, -1)
            flat = [columns.reshape(-1) for columns in np.split(rows, places, axis=1)]
        return [
            values[: int(np.prod(shape))].reshape(shape)
            for values, shape in zip(flat, self._shapes, strict=True)
        ]

    def write(self, index: int, value: Any) -> None:
        """Set the state of weight `index`: its part on each replica of this process.

        Args:
            index: index of the weight.
            value: the whole state, in the weight's shape.
        """
        part, local = (
            self._parts[index],
            self._strategy.experimental_local_results(self._parts[index]),
        )
        flat = np.zeros(self._replicas * part.shape[0], part.dtype.as_numpy_dtype)
        flat[: np.size(value)] = np.reshape(value, [-1])
        rows = flat.reshape(self._replicas, -1)
        first = 0
        if len(local) < self._replicas:
            first = self._strategy.cluster_resolver.task_id * len(local)
        for own, row in zip(local, rows[first:], strict=False):
            own.assign(row)

    def _own(self, x: tf.Tensor, index: int, replica: Any) -> tf.Tensor:
        part = self._parts[index].shape[0]
        flat = tf.reshape(x, [-1])
        missing = self._replicas * part - flat.shape[0]
        if missing:
            flat = tf.pad(flat, [[0, missing]])
        return tf.slice(flat, [replica * part], [part])

    @functools.cached_property
    def _gathered(self) -> Callable[[], tf.Tensor]:
        """A function that gathers the parts of all replicas, in their order, in one collective."""

        @tf.function
        def gathered() -> tf.Tensor:
            def own() -> tf.Tensor:
                parts = tf.concat([part.read_value() for part in self._parts], 0)
                return tf.distribute.get_replica_context().all_gather(parts, axis=0)

            return self._strategy.experimental_local_results(self._strategy.run(own))[0]

        return gathered
