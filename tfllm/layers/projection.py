"""A linear projection with its weights stored row by output."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.shapes import shape_of


def forked(initializer: Any, name: str) -> Any:
    """A copy of a Keras initializer for the weight called `name`.

    An initializer that is used for two weights of one shape gives both the same values. The copy's
    seed is a function of the original's and the name, so that seeded models stay reproducible; an
    initializer without a seed is given a new random one. A plain function stays as it is.
    """
    if not hasattr(initializer, "get_config"):
        return initializer
    config = initializer.get_config()
    seed = config.get("seed")
    if isinstance(seed, dict):  # a SeedGenerator
        seed = seed["config"]["seed"]
    if isinstance(seed, int):
        config["seed"] = zlib.crc32(f"{seed}/{name}".encode())
    return type(initializer).from_config(config)


@tf.custom_gradient
def _add_bias(y: tf.Tensor, bias: tf.Tensor) -> Any:
    """`[R, out]` plus `[out]`. The bias's gradient, a sum over rows, is a product with ones: sums
    over a bfloat16 tensor's first axis are slow on a CPU, and less exact."""

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ones = tf.ones([1, tf.shape(upstream)[0]], upstream.dtype)
        return upstream, tf.squeeze(tf.matmul(ones, upstream), 0)

    return tf.nn.bias_add(y, bias), gradient


@keras.saving.register_keras_serializable("tfllm")
class Projection(keras.layers.Layer):
    """y = x Wᵀ + b, with W of shape `[output_dim, input_dim]`.

    Keras' `Dense` stores `[input_dim, output_dim]`. Row by output is how checkpoints of the
    Hugging Face ecosystem store it, and the layout in which a matrix-vector product reads memory
    in order: with bfloat16 weights a decoding step is several times faster.

    Args:
        output_dim: size of the last axis of the result.
        use_bias: add a bias of shape `[output_dim]`.
        kernel_initializer: initializer of W.

    Call arguments:
        x: float `[..., input_dim]`.

    Returns:
        float `[..., output_dim]`, in the layer's compute dtype.
    """

    def __init__(
        self,
        output_dim: int,
        *,
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if output_dim < 1:
            raise ValueError(f"output_dim must be at least 1; received {output_dim}")
        self.output_dim = output_dim
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Create W and b for inputs `[..., input_dim]`."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.output_dim, input_shape[-1]),
            initializer=self.kernel_initializer,
        )
        self.bias = (
            self.add_weight(name="bias", shape=(self.output_dim,), initializer="zeros")
            if self.use_bias
            else None
        )
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Project the last axis."""
        kernel = tf.convert_to_tensor(self.kernel)
        # One two-dimensional product: the kernel for it is faster than the batched one.
        rows = x if x.shape.rank == 2 else tf.reshape(x, [-1, x.shape[-1]])
        y = tf.matmul(rows, kernel, transpose_b=True)
        if self.bias is not None:
            y = _add_bias(y, tf.convert_to_tensor(self.bias))
        return y if x.shape.rank == 2 else tf.reshape(y, [*shape_of(x)[:-1], self.output_dim])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The input's shape with `output_dim` last."""
        return (*input_shape[:-1], self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
