"""AdamW with decoupled decay of matrices only, in TensorFlow's fused kernel."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfllm")
class AdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov & Hutter, 2019); same updates as Keras', in one kernel a weight.

    Decay is left out of vectors (norms, biases) unless `decay_vectors` is set. The options of
    Keras' AdamW that change an update (`amsgrad`) are not offered.

    Args:
        learning_rate: a number or a `keras.optimizers.schedules.LearningRateSchedule`.
        weight_decay: share of a weight, times the learning rate, that is taken off in a step.
        decay_vectors: decay weights of rank 0 and 1, too.
        kwargs: as `keras.optimizers.AdamW`.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.1,
        *,
        decay_vectors: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("amsgrad", False):
            raise ValueError("tfllm's AdamW has no amsgrad; use keras.optimizers.AdamW for it")
        super().__init__(learning_rate, weight_decay, **kwargs)
        self.decay_vectors = decay_vectors

    def _use_weight_decay(self, variable: Any) -> bool:
        if not self.decay_vectors and len(variable.shape) < 2:
            return False
        return super()._use_weight_decay(variable)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight and its two moments in place."""
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, tf.float32)
        # The bias correction, here and not in the kernel: bfloat16 weights have no such numbers.
        correction = tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=tf.zeros([], dtype),
            beta2_power=tf.zeros([], dtype),
            lr=tf.cast(tf.cast(learning_rate, tf.float32) * correction, dtype),
            beta1=tf.cast(self.beta_1, dtype),
            beta2=tf.cast(self.beta_2, dtype),
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.cast(tf.convert_to_tensor(gradient), dtype),  # dense: repeated rows summed
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("amsgrad", None)
        return {**config, "decay_vectors": self.decay_vectors}


def _handle(variable: Any) -> tf.Tensor:
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
