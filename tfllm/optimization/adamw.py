"""AdamW that decays matrices only, with its state whole on each replica or sharded over them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfllm.keras_internals import variables_of
from tfllm.optimization.state_shards import StateShards


class PortableValue(NamedTuple):
    """A part of an optimizer's state, independent of how replicas hold it."""

    name: str
    """such as "iterations" or "momentum\""""
    of: Any
    """the weight whose state it is, or None"""
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    write: Callable[[Any], None]


@keras.saving.register_keras_serializable("tfllm")
class AdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov & Hutter, 2019); same updates as Keras', in one kernel per weight.

    Vectors (norms, biases) are not decayed unless `decay_vectors` is set. Keras' option `amsgrad`
    is not supported.

    Args:
        learning_rate: a number or a `keras.optimizers.schedules.LearningRateSchedule`. Defaults to
            1e-3.
        weight_decay: fraction of a weight, times the learning rate, that is subtracted in a step.
            Defaults to 0.1.
        decay_vectors: also decay weights of rank 0 and 1. Defaults to False.
        shards: shard the two moments of every weight over the replicas: each replica updates its
            part of the weight, and the replicas then gather the weights (ZeRO stage 1; Rajbhandari
            et al., 2020). On n replicas the moments take 1/n of the memory of each; the updates are
            the same. Needs `tfllm.training.TrainingStep`, whose gradients are those of the global
            batch. Defaults to False.
        kwargs: other arguments of `keras.optimizers.AdamW`.

    Examples:
        >>> model = tfllm.Transformer(vocab_size=64, embedding_dim=16, num_heads=2, num_layers=1)
        >>> model.compile(tfllm.training.AdamW(3e-4, global_clipnorm=1.0))
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.1,
        *,
        decay_vectors: bool = False,
        shards: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("amsgrad", False):
            raise ValueError(
                "amsgrad is not supported by tfllm's AdamW; use keras.optimizers.AdamW for it"
            )
        super().__init__(learning_rate, weight_decay, **kwargs)
        self.decay_vectors = decay_vectors
        self.shards = shards

    _momentums: Any
    _velocities: Any

    def build(self, variables: list[Any]) -> None:
        """Create the moments of `variables`."""
        if self.built or not self.shards:
            super().build(variables)
            return
        # The variables that every optimizer has, without Adam's moments.
        keras.optimizers.Optimizer.build(self, variables)
        self._momentums = StateShards(variables, "momentum", self._distribution_strategy)
        self._velocities = StateShards(variables, "velocity", self._distribution_strategy)

    def _use_weight_decay(self, variable: Any) -> bool:
        if not self.decay_vectors and len(variable.shape) < 2:
            return False
        return super()._use_weight_decay(variable)

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        if self.weight_decay:  # with 0, Keras would still subtract zeros from each weight
            super()._apply_weight_decay(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight and its two moments in place.

        Args:
            gradient: gradient of the weight.
            variable: the weight.
            learning_rate: learning rate including Adam's bias correction (`_step_size`).
        """
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=tf.zeros([], dtype),
            beta2_power=tf.zeros([], dtype),
            lr=tf.cast(learning_rate, dtype),
            beta1=tf.cast(self.beta_1, dtype),
            beta2=tf.cast(self.beta_2, dtype),
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.cast(tf.convert_to_tensor(gradient), dtype),  # dense: sums repeated rows
        )

    def _step_size(self, learning_rate: Any) -> tf.Tensor:
        """The learning rate times Adam's bias correction, float32.

        Computed here and not in the kernel, since bfloat16 cannot represent these numbers.
        """
        step = tf.cast(self.iterations + 1, tf.float32)
        correction = tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        return tf.cast(learning_rate, tf.float32) * correction

    def _backend_update_step(
        self, gradients: list[Any], variables: list[Any], learning_rate: Any
    ) -> None:
        size = self._step_size(learning_rate)  # once for all weights
        if not self.shards:
            super()._backend_update_step(gradients, variables, size)
            return

        def update(index: int, gradient: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            m, v = self._momentums[index], self._velocities[index]
            gradient = tf.cast(gradient, m.dtype)
            momentum = m + (gradient - m) * (1 - self.beta_1)
            velocity = v + (gradient**2 - v) * (1 - self.beta_2)
            m.assign(momentum)
            v.assign(velocity)
            step = tf.cast(size, m.dtype) * momentum / (tf.sqrt(velocity) + self.epsilon)
            return weight - tf.cast(step, weight.dtype)

        indices = [self._get_variable_index(v) for v in variables]
        self._momentums.update_weights(update, indices, gradients, variables)

    def state_bytes(self) -> int:
        """Size of the two moments on one replica, in bytes."""
        if self.shards:
            return self._momentums.num_bytes + self._velocities.num_bytes
        return sum(
            int(np.prod(moment.shape)) * moment.value.dtype.size
            for moments in (self._momentums, self._velocities)
            for moment in moments
        )

    def portable_state(self) -> list[PortableValue]:
        """The complete state that an update depends on, whatever the number of replicas.

        The names are `iterations`, `learning_rate` if it is a number, and `momentum` and `velocity`
        of each weight. With `shards` and several workers, every worker must read the values.
        """

        def whole(name: str, variable: Any, of: Any = None) -> PortableValue:
            shape = tuple(variable.shape)
            return PortableValue(name, of, shape, lambda: _read(variable), variable.assign)

        values = [whole("iterations", self._iterations)]
        if isinstance(self._learning_rate, keras.Variable):
            values.append(whole("learning_rate", self._learning_rate))
        for kind, moments in (("momentum", self._momentums), ("velocity", self._velocities)):
            gathered = functools.cache(moments.whole) if self.shards else None  # once for all
            for i, weight in enumerate(variables_of(self)):
                if self.shards:
                    read = functools.partial(lambda all_of_them, i: all_of_them()[i], gathered, i)
                    write = functools.partial(moments.write, i)
                    values.append(PortableValue(kind, weight, tuple(weight.shape), read, write))
                else:
                    values.append(whole(kind, moments[i], weight))
        return values

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("amsgrad", None)
        return {**config, "decay_vectors": self.decay_vectors, "shards": self.shards}


def _handle(variable: Any) -> tf.Tensor:
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


def _read(variable: Any) -> np.ndarray:
    return np.array(tf.convert_to_tensor(variable))
