"""The feed-forward layer, plain or gated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.dropout import shifted
from tfllm.layers.projection import Projection, forked, quantized_dtype
from tfllm.layers.quantized import int8_policy, multiplies_integers
from tfllm.layers.shapes import shape_of


@tf.custom_gradient
def gelu_tanh(x: tf.Tensor) -> Any:
    """The tanh approximation of GELU (Hendrycks & Gimpel, 2016); its gradient needs few passes.

    0.5 x (1 + tanh(z)) is x sigmoid(2 z), with z = sqrt(2 / pi) (x + 0.044715 x³).
    """
    slope = 2 * math.sqrt(2 / math.pi)
    square = x * x
    share = tf.sigmoid(x * (slope + 0.044715 * slope * square))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        inner = x * (1 - share) * (slope + 3 * 0.044715 * slope * square)
        return upstream * share * (1 + inner)

    return x * share, gradient


@tf.custom_gradient
def gelu(x: tf.Tensor) -> Any:
    """GELU, x Φ(x) with the normal distribution function Φ (Hendrycks & Gimpel, 2016).

    It is computed in at least float32: on CPUs the error function of a bfloat16 tensor takes
    several times as long, in a sequence of kernels.
    """
    exact = tf.cast(x, tf.float32) if x.dtype.size < 4 else x
    share = 0.5 + 0.5 * tf.math.erf(exact * math.sqrt(0.5))
    kept = tf.cast(share, x.dtype)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        exact = tf.cast(x, share.dtype)
        density = tf.exp(-0.5 * exact * exact) * (1 / math.sqrt(2 * math.pi))
        slope = tf.cast(kept, exact.dtype) + exact * density
        return tf.cast(tf.cast(upstream, exact.dtype) * slope, x.dtype)

    return tf.cast(exact * share, x.dtype), gradient


ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "silu": tf.nn.silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": tf.nn.relu,
}

# Activations that TensorFlow fuses on CPUs with the matrix product and the bias before them, if no
# gradient needs the intermediate results.
_JOINED: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
}


@keras.saving.register_keras_serializable("tfllm")
class FeedForward(keras.layers.Layer):
    """Feed-forward layer, plain or gated.

    It computes act(x W₁ᵀ) W₂ᵀ, or (act(x Wgᵀ) · x Wuᵀ) W₂ᵀ if gated (Shazeer, GLU variants, 2020).

    Args:
        hidden_dim: inner width.
        activation: activation function, one of "silu", "gelu", "gelu_tanh" and "relu". Defaults to
            "silu".
        gated: use a gated layer; gate and up projection are one product. Defaults to True.
        use_bias: add biases to the projections. Defaults to False.
        kernel_initializer: initializer of the inner projection. Defaults to "glorot_uniform".
        output_initializer: initializer of the output projection. Defaults to kernel_initializer.

    Call arguments:
        x: float `[..., dim]`.
        adapter_seed: seed of the dropout of the projections' adapters, int32 `[2]`; None: no
            dropout.
        training: None or false if no gradient will be needed: TensorFlow's own activation is then
            used, which is faster but has a slower gradient.
        decoding: as in `Projection`. Defaults to False.

    Returns:
        float `[..., dim]`.

    Examples:
        >>> layer = tfllm.layers.FeedForward(64)
        >>> layer(tf.ones([2, 5, 16])).shape
        TensorShape([2, 5, 16])
    """

    def __init__(
        self,
        hidden_dim: int,
        *,
        activation: str = "silu",
        gated: bool = True,
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        output_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = int8_policy(kwargs.get("dtype"))
        super().__init__(**kwargs)
        if hidden_dim < 1:
            raise ValueError(f"hidden_dim must be at least 1; received {hidden_dim}")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}; received {activation!r}"
            )
        self.hidden_dim = hidden_dim
        self.activation = activation
        self.gated = gated
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)

    def build(self, input_shape: Any) -> None:
        """Create the projections for inputs `[..., dim]`."""
        options = {"use_bias": self.use_bias, "dtype": self.dtype_policy}
        self.inner = Projection(
            self.hidden_dim * (2 if self.gated else 1),
            kernel_initializer=forked(self.kernel_initializer, "inner"),
            name="gate_up" if self.gated else "up",
            **options,
        )
        self.inner.build(input_shape)
        self.outer = Projection(
            input_shape[-1],
            kernel_initializer=forked(self.output_initializer or self.kernel_initializer, "outer"),
            name="down",
            **options,
        )
        self.outer.build((*input_shape[:-1], self.hidden_dim))
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        adapter_seed: tf.Tensor | None = None,
        training: bool | None = None,
        decoding: bool = False,
    ) -> tf.Tensor:
        """Apply the layer to the last axis."""
        seeds = shifted(adapter_seed, 0), shifted(adapter_seed, 1)
        if self.gated:
            hidden = self.inner(x, adapter_seed=seeds[0], decoding=decoding)
            hidden = self._gate(*tf.split(hidden, 2, axis=-1))
            return self.outer(hidden, adapter_seed=seeds[1], decoding=decoding)
        options = {"training": bool(training), "decoding": decoding}
        joined = None if training else _JOINED.get(self.activation)
        # Fusion needs rows throughout: no reshape between product, bias and activation. Products of
        # integers are not fused, and rows would be taken for few.
        fused = joined and x.shape.rank > 2 and not multiplies_integers(self.dtype_policy)
        rows = tf.reshape(x, [-1, x.shape[-1]]) if fused else x
        hidden = self.inner(rows, adapter_seed=seeds[0], **options)
        hidden = (joined or ACTIVATIONS[self.activation])(hidden)
        y = self.outer(hidden, adapter_seed=seeds[1], **options)
        return y if rows is x else tf.reshape(y, [*shape_of(x)[:-1], x.shape[-1]])

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def _gate(self, gate: tf.Tensor, up: tf.Tensor) -> tf.Tensor:
        if self.activation == "silu":
            # silu(gate) · up in another order: TensorFlow turns gate · sigmoid(gate) into a kernel
            # that takes 50 us or more to start, which matters in a decoding step.
            return tf.sigmoid(gate) * (gate * up)
        return ACTIVATIONS[self.activation](gate) * up

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            **quantized_dtype(getattr(self, "outer", None)),
            "hidden_dim": self.hidden_dim,
            "activation": self.activation,
            "gated": self.gated,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer)
            if self.output_initializer
            else None,
        }
