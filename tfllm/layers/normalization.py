"""RMSNorm and LayerNorm with statistics in float32 and results in the compute dtype."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class _Norm(keras.layers.Layer):
    def __init__(self, *, epsilon: float = 1e-5, **kwargs: Any) -> None:
        # The input is not cast (the residual stream is float32 whatever the policy).
        super().__init__(autocast=False, **kwargs)
        if epsilon <= 0:
            raise ValueError(f"epsilon must be positive; received {epsilon}")
        self.epsilon = epsilon

    def _float32_weight(self, name: str, size: int, initializer: str) -> Any:
        return self.add_weight(
            name=name, shape=(size,), initializer=initializer, dtype="float32", autocast=False
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("tfllm")
class RMSNorm(_Norm):
    """Root mean square normalization of the last axis (Zhang & Sennrich, 2019).

    It computes x / sqrt(mean(x²) + epsilon) · scale.

    Args:
        epsilon: added to the mean square. Defaults to 1e-5.

    Call arguments:
        x: float `[..., dim]`.

    Returns:
        `[..., dim]` in the compute dtype; the statistics are computed in float32.

    Examples:
        >>> norm = tfllm.layers.RMSNorm()
        >>> norm(tf.ones([2, 5, 16])).shape
        TensorShape([2, 5, 16])
    """

    def build(self, input_shape: Any) -> None:
        """Create the scale, of shape `[dim]`, in float32."""
        self.scale = self._float32_weight("scale", input_shape[-1], "ones")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Normalize the last axis."""
        x = tf.cast(x, tf.float32)
        variance = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
        y = x * tf.math.rsqrt(variance + self.epsilon) * tf.convert_to_tensor(self.scale)
        return tf.cast(y, self.compute_dtype)


@keras.saving.register_keras_serializable("tfllm")
class LayerNorm(_Norm):
    """Layer normalization of the last axis (Ba et al., 2016).

    It computes (x - mean) / sqrt(variance + epsilon) · scale + bias.

    Args:
        epsilon: added to the variance. Defaults to 1e-5.

    Call arguments:
        x: float `[..., dim]`.

    Returns:
        `[..., dim]` in the compute dtype; the statistics are computed in float32.

    Examples:
        >>> norm = tfllm.layers.LayerNorm()
        >>> norm(tf.ones([2, 5, 16])).shape
        TensorShape([2, 5, 16])
    """

    def build(self, input_shape: Any) -> None:
        """Create scale and bias, of shape `[dim]`, in float32."""
        self.scale = self._float32_weight("scale", input_shape[-1], "ones")
        self.bias = self._float32_weight("bias", input_shape[-1], "zeros")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Normalize the last axis."""
        x = tf.cast(x, tf.float32)
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        y = centred * tf.math.rsqrt(variance + self.epsilon)
        y = y * tf.convert_to_tensor(self.scale) + tf.convert_to_tensor(self.bias)
        return tf.cast(y, self.compute_dtype)


class QueryKeyNorm(_Norm):
    """RMSNorm of each head's query and key, with one scale for queries and one for keys.

    After Henry et al. (2020), as in Qwen 3.

    Args:
        num_heads: number of query heads; the remaining heads are key heads.
        epsilon: added to the mean square. Defaults to 1e-5.

    Call arguments:
        x: float `[B, heads, T, D]`, the query heads first.

    Returns:
        `[B, heads, T, D]` in the compute dtype; the statistics are computed in float32.
    """

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, input_shape: Any) -> None:
        """Create the scales, of shape `[D]`, in float32."""
        self.query_scale = self._float32_weight("query_scale", input_shape[-1], "ones")
        self.key_scale = self._float32_weight("key_scale", input_shape[-1], "ones")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Normalize the last axis."""
        # Queries and keys together: half the operations, which matters in a decoding step.
        is_key = [int(head >= self.num_heads) for head in range(x.shape[1])]
        scales = [tf.convert_to_tensor(scale) for scale in (self.query_scale, self.key_scale)]
        scale = tf.gather(tf.stack(scales), is_key)
        x = tf.cast(x, tf.float32)
        variance = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
        y = x * tf.math.rsqrt(variance + self.epsilon) * scale[:, tf.newaxis]
        return tf.cast(y, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_heads": self.num_heads}


def norm_layer(kind: str, epsilon: float, **kwargs: Any) -> keras.layers.Layer:
    """A new `RMSNorm` for the kind "rms", or `LayerNorm` for "layer".

    Raises:
        ValueError: `kind` is neither.
    """
    kinds = {"rms": RMSNorm, "layer": LayerNorm}
    if kind not in kinds:
        raise ValueError(f"norm must be one of {', '.join(kinds)}; received {kind!r}")
    return kinds[kind](epsilon=epsilon, **kwargs)
