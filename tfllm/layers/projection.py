"""A linear projection whose weights have one row for each output."""

from __future__ import annotations

import contextlib
import zlib
from typing import Any

import keras
import tensorflow as tf

from tfllm.keras_internals import forget_layer, forget_variable, unlocked
from tfllm.layers.lora import Lora
from tfllm.layers.quantized import (
    add_int8_matrix,
    are_few,
    check_int8,
    dequantized,
    int8_policy,
    int8_product,
    is_int8,
    multiplies_integers,
    quantize_rows,
)
from tfllm.layers.shapes import shape_of


def forked(initializer: Any, name: str) -> Any:
    """A copy of a Keras initializer for the weight called `name`.

    An initializer that is used for two weights of one shape gives both the same values. The copy's
    seed is derived from the original seed and the name, so that seeded models stay reproducible; an
    initializer without a seed gets a new random one. A plain function is returned unchanged.
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


def quantized_dtype(projection: Any) -> dict[str, Any]:
    """The dtype entry of a layer's configuration if the layer's projection has been quantized.

    With it a layer that was saved after quantizing is created as a quantized one. Otherwise empty.
    """
    policy = getattr(projection, "dtype_policy", None)
    return {"dtype": keras.dtype_policies.serialize(policy)} if is_int8(policy) else {}


def product_with_rows(x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """x Wᵀ for many rows x `[R, I]` and a matrix W `[O, I]` of the same dtype.

    In float32 it is computed as a batched product with a batch of one: on a CPU, for about ten to a
    hundred rows, TensorFlow's kernel for a transposed float32 matrix takes up to three times as
    long as the batched one. For thousands of rows both take equally long; for one or two rows the
    former is faster.
    """
    if matrix.dtype != tf.float32:
        return tf.matmul(x, matrix, transpose_b=True)
    return tf.squeeze(tf.matmul(x[tf.newaxis], matrix[tf.newaxis], transpose_b=True), 0)


@tf.custom_gradient
def _add_bias(y: tf.Tensor, bias: tf.Tensor) -> Any:
    """Add a bias `[O]` to y `[R, O]`.

    The bias's gradient, a sum over rows, is computed as a product with ones: summing over the first
    axis of a bfloat16 tensor is slow on a CPU, and less exact.
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ones = tf.ones([1, tf.shape(upstream)[0]], upstream.dtype)
        return upstream, tf.squeeze(tf.matmul(ones, upstream), 0)

    return tf.nn.bias_add(y, bias), gradient


@keras.saving.register_keras_serializable("tfllm")
class Projection(keras.layers.Layer):
    """Linear projection y = x Wᵀ + b, with W of shape `[output_dim, input_dim]`.

    Keras' `Dense` stores `[input_dim, output_dim]`. One row for each output is how checkpoints of
    the Hugging Face ecosystem store W, and the layout in which a matrix-vector product reads memory
    in order: with bfloat16 weights a decoding step is several times faster.

    Adapters add low-rank updates to W (`add_adapter`); at most one of them is in use.

    With an `Int8Policy`, W is stored as integers with a scale for each row; it is 0 until it is
    assigned, and is not trained.

    Args:
        output_dim: size of the last axis of the result.
        use_bias: add a bias of shape `[output_dim]`. Defaults to False.
        kernel_initializer: initializer of W. Defaults to "glorot_uniform".

    Call arguments:
        x: float `[..., input_dim]`. With rank 2 it is assumed to have few rows, as in a decoding
            step.
        adapter_seed: seed of the adapter's dropout, int32 `[2]`; None: no dropout.
        training: false if no gradient will be needed: the bias is then added by an operation that
            TensorFlow can fuse with its neighbours. Defaults to None: one may be needed.
        decoding: whether there may be few rows also with another rank. Defaults to False.

    Returns:
        float `[..., output_dim]`, in the layer's compute dtype.

    Examples:
        >>> layer = tfllm.layers.Projection(8)
        >>> layer(tf.ones([2, 5, 16])).shape
        TensorShape([2, 5, 8])
        >>> layer.kernel.shape
        TensorShape([8, 16])
    """

    def __init__(
        self,
        output_dim: int,
        *,
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=int8_policy(dtype), **kwargs)
        if output_dim < 1:
            raise ValueError(f"output_dim must be at least 1; received {output_dim}")
        self.output_dim = output_dim
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.quantized_alone = True
        self.adapters: dict[str, Lora] = {}
        self.adapter: Lora | None = None

    def build(self, input_shape: Any) -> None:
        """Create W and b for inputs `[..., input_dim]`."""
        shape = (self.output_dim, input_shape[-1])
        if is_int8(self.dtype_policy):
            self.kernel = add_int8_matrix(self, "kernel", shape)
        else:
            self.kernel = self.add_weight(
                name="kernel", shape=shape, initializer=self.kernel_initializer
            )
        self.bias = (
            self.add_weight(name="bias", shape=(self.output_dim,), initializer="zeros")
            if self.use_bias
            else None
        )
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        adapter_seed: tf.Tensor | None = None,
        training: bool | None = None,
        decoding: bool = False,
    ) -> tf.Tensor:
        """Project the last axis."""
        # One product for all rows, instead of one for each row of the batch.
        rows = x if x.shape.rank == 2 else tf.reshape(x, [-1, x.shape[-1]])
        y = self._product(rows, few=x.shape.rank == 2, decoding=decoding)
        if self.bias is not None:
            add = tf.nn.bias_add if training is False else _add_bias
            y = add(y, tf.convert_to_tensor(self.bias))
        if self.adapter is not None:
            y += self.adapter(rows, adapter_seed if self.adapter.dropout else None)
        return y if x.shape.rank == 2 else tf.reshape(y, [*shape_of(x)[:-1], self.output_dim])

    def _product(self, rows: tf.Tensor, *, few: bool, decoding: bool) -> tf.Tensor:
        """rows Wᵀ, `[R, output_dim]`, however W is stored."""
        if is_int8(self.dtype_policy):
            as_integers: bool | tf.Tensor = False
            if multiplies_integers(self.dtype_policy):
                as_integers = few or (decoding and are_few(rows))
            return int8_product(rows, self.kernel, self.kernel_scale, as_integers=as_integers)
        kernel = tf.convert_to_tensor(self.kernel)
        return tf.matmul(rows, kernel, transpose_b=True) if few else product_with_rows(rows, kernel)

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Convert W to integers; Keras' `Model.quantize("int8")` calls this on each layer.

        Raises:
            NotImplementedError: the mode is not "int8", or the layer is part of a model that is
                quantized as a whole; Keras then leaves the layer unchanged and warns.
        """
        if not self.quantized_alone:
            raise NotImplementedError(
                f"{self.path} is not quantized: it is part of a tfllm model, which is quantized as "
                "a whole; call that model's quantize('int8') before you put other layers around it"
            )
        try:
            check_int8(mode, config, "Projection")
            policy = int8_policy(f"int8_{self.compute_dtype}")
            values = self.kernel_values()
        except ValueError as error:
            raise NotImplementedError(str(error)) from None
        forget_variable(self, self.kernel)
        setattr(self, "dtype_policy", policy)  # noqa: B010 (a property of Keras)
        self.kernel = add_int8_matrix(self, "kernel", tuple(values.shape))
        self.assign_kernel(values)

    def kernel_values(self) -> tf.Tensor:
        """W in float32, however it is stored."""
        if is_int8(self.dtype_policy):
            return dequantized(self.kernel.value, self.kernel_scale.value)
        return tf.cast(tf.convert_to_tensor(self.kernel.value), tf.float32)

    def assign_kernel(self, values: tf.Tensor) -> None:
        """Set W to these values, rounded to the dtype that it is stored in."""
        if is_int8(self.dtype_policy):
            values, scale = quantize_rows(values)
            self.kernel_scale.assign(scale)
        self.kernel.assign(tf.cast(values, self.kernel.dtype))

    def add_adapter(self, name: str, parts: Any, **options: Any) -> Lora:
        """Create an adapter called `name`, which is not in use yet.

        Args:
            name: name of the adapter; must be new.
            parts: its ranges of rows; see `Lora`.
            options: other arguments of `Lora`.
        """
        assert self.built and name not in self.adapters, name
        adapter = Lora(self.output_dim, parts, name=name, dtype=self.dtype_policy, **options)
        with contextlib.ExitStack() as scopes:  # so that its weights are named like the kernel
            for scope in self.kernel.path.split("/")[:-1]:
                scopes.enter_context(keras.name_scope(scope))
            adapter.build((None, self.kernel.shape[1]))
        self._set_adapters({**self.adapters, name: adapter})
        return adapter

    def use_adapter(self, name: str | None) -> None:
        """Use the adapter of this name from now on, or none."""
        self._set_adapters(self.adapters, None if name is None else self.adapters.get(name))

    def delete_adapter(self, name: str) -> None:
        """Delete an adapter, if it exists."""
        kept = {other: adapter for other, adapter in self.adapters.items() if other != name}
        deleted = self.adapters.get(name)
        in_use = None if self.adapter is deleted else self.adapter
        self._set_adapters(kept, in_use)
        if deleted is not None:
            forget_layer(self, deleted)

    def merge_adapter(self, name: str, into: Projection | None = None) -> None:
        """Add an adapter's update to W in float32, and round once.

        Args:
            name: name of the adapter.
            into: the projection whose W is set to the sum. Defaults to this one.

        Raises:
            ValueError: `into` is this projection and W is int8, so that it would be rounded again.
        """
        if into is None and is_int8(self.dtype_policy):
            raise ValueError(
                "an adapter can be merged into float weights only; these are int8. Load the base "
                "model with dtype='float32', load the adapter and merge it there"
            )
        update = self.adapters[name].kernel_update()
        (into or self).assign_kernel(self.kernel_values() + update)

    def _set_adapters(self, adapters: dict[str, Lora], adapter: Lora | None = None) -> None:
        with unlocked(self):
            self.adapters = dict(adapters)
            self.adapter = adapter

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
