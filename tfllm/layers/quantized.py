"""Matrices stored as integers of 8 bits with a scale for each row: a quarter of float32's size.

The weights alone are integers: they become the compute dtype where they are used, and the scale is
put on the result (Dettmers et al., LLM.int8(), 2022, without its outliers). Integers up to 127 are
exact in bfloat16, and a scale is one of its numbers, so that the rounding to integers is all that
is lost. The matrices are not trained; gradients flow through them.

Shape letters: R rows of input, I input size, O output size.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

_MOST = 127
# So few of a matrix's numbers are turned into floats at once that they stay in the cache, and that
# a large matrix is not in memory a second time.
_CHUNK_ELEMENTS = 2**21

SCALE = "_scale"
"""the scales of a matrix are the weight with its name and this behind it"""


@keras.saving.register_keras_serializable("tfllm")
class Int8Policy(keras.DTypePolicy):
    """Matrices are stored as integers; other weights and all products are of a float type.

    (Keras' own `QuantizedDTypePolicy` asks every layer for methods of Keras'.)

    Args:
        name: "int8_float32" or "int8_bfloat16".
    """

    def _parse_name(self, name: str) -> tuple[str, str]:
        if name not in INT8_POLICIES:
            raise ValueError(f"name must be one of {', '.join(INT8_POLICIES)}; received {name!r}")
        dtype = name.removeprefix("int8_")
        return dtype, dtype


INT8_POLICIES = ("int8_float32", "int8_bfloat16")


def int8_policy(dtype: Any) -> Any:
    """The policy of that name, where Keras, which does not know it, keeps the name alone."""
    return Int8Policy(dtype) if dtype in INT8_POLICIES else dtype


def is_int8(policy: Any) -> bool:
    """Whether a dtype policy stores matrices as integers."""
    return isinstance(policy, Int8Policy)


def check_int8(mode: str | None, config: Any, what: str) -> None:
    """Refuse what Keras' `quantize` can be asked for and is not done here.

    Args:
        mode: as of Keras.
        config: as of Keras.
        what: the class that is to be quantized.

    Raises:
        ValueError: another mode than "int8", or a quantizer for the weights.
    """
    mode = getattr(config, "mode", mode)
    if mode != "int8":
        raise ValueError(
            f"the mode of quantize must be 'int8' for a {what}; received {mode!r}. Smaller than "
            "float32 are also model.with_dtype('bfloat16') and, when it is loaded or exported, "
            "dtype='int8'"
        )
    if getattr(config, "weight_quantizer", None) is not None:
        raise ValueError(
            f"a {what} rounds each row of a matrix by its largest magnitude, and takes no other "
            f"weight_quantizer; received {config.weight_quantizer}"
        )


def quantize_rows(values: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The nearest integers, and the scales that make the values of them again.

    Args:
        values: float `[O, I]`.

    Returns:
        int8 `[O, I]` and float32 `[O]`: the largest magnitude of each row over 127, rounded up to a
        number of bfloat16.
    """
    values = tf.cast(values, tf.float32)
    scale = tf.reduce_max(tf.abs(values), axis=-1) / _MOST
    bits = tf.bitcast(scale, tf.int32)
    upper = tf.bitwise.bitwise_and(bits + 0xFFFF, tf.constant(~0xFFFF, tf.int32))
    scale = tf.bitcast(upper, tf.float32)
    scale = tf.where(scale > 0, scale, 1.0)
    integers = tf.round(values / scale[:, tf.newaxis])
    return tf.cast(tf.clip_by_value(integers, -_MOST, _MOST), tf.int8), scale


def dequantized(integers: Any, scale: Any, dtype: Any = tf.float32) -> tf.Tensor:
    """The values that integers `[O, I]` and scales `[O]` stand for."""
    return tf.cast(integers, dtype) * tf.cast(scale, dtype)[:, tf.newaxis]


def int8_product(rows: tf.Tensor, integers: Any, scale: Any) -> tf.Tensor:
    """rows Wᵀ, for W of integers and scales.

    Args:
        rows: float `[R, I]`.
        integers: int8 `[O, I]`.
        scale: float32 `[O]`.

    Returns:
        `[R, O]` in the dtype of `rows`, which gets a gradient.
    """
    matrix, factors = tf.convert_to_tensor(integers), tf.convert_to_tensor(scale)
    sizes = _chunk_sizes(*matrix.shape)

    # The gradient turns the integers into floats anew: else the tape would keep all matrices.
    @tf.custom_gradient
    def product(rows: tf.Tensor) -> Any:
        dtype = rows.dtype

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            upstream *= tf.cast(factors, dtype)
            parts = zip(tf.split(upstream, sizes, 1), tf.split(matrix, sizes), strict=True)
            return tf.add_n([tf.matmul(up, tf.cast(part, dtype)) for up, part in parts])

        parts = [
            tf.matmul(rows, tf.cast(part, dtype), transpose_b=True)
            for part in (tf.split(matrix, sizes) if len(sizes) > 1 else [matrix])
        ]
        y = tf.concat(parts, 1) if len(parts) > 1 else parts[0]
        return y * tf.cast(factors, dtype), gradient

    return product(rows)


def _chunk_sizes(outputs: int, inputs: int) -> list[int]:
    """How many rows of a matrix are used at once."""
    most = max(1, _CHUNK_ELEMENTS // inputs)
    return [min(most, outputs - begin) for begin in range(0, outputs, most)]


def add_int8_matrix(layer: keras.layers.Layer, name: str, shape: tuple[int, int]) -> Any:
    """Create the weights of a matrix; its values are 0 until they are assigned.

    Returns:
        the integers; the scales are the layer's attribute `NAME_scale`.
    """
    options = {"trainable": False, "autocast": False}
    integers = layer.add_weight(
        name=name, shape=shape, dtype="int8", initializer="zeros", **options
    )
    scale = layer.add_weight(
        name=name + SCALE, shape=shape[:1], dtype="float32", initializer="ones", **options
    )
    setattr(layer, name + SCALE, scale)
    return integers


@keras.saving.register_keras_serializable("tfllm")
class Int8Embedding(keras.layers.Layer):
    """Rows of a table of integers and scales.

    Args:
        input_dim: number of ids.
        output_dim: size of a row.

    Call arguments:
        ids: int `[...]`.

    Returns:
        float32 `[..., output_dim]`.
    """

    def __init__(
        self, input_dim: int, output_dim: int, *, dtype: Any = "int8_float32", **kwargs: Any
    ) -> None:
        super().__init__(dtype=int8_policy(dtype), **kwargs)
        self.input_dim = input_dim
        self.output_dim = output_dim

    def build(self, input_shape: Any) -> None:
        """Create the table."""
        del input_shape
        self.embeddings = add_int8_matrix(self, "embeddings", (self.input_dim, self.output_dim))
        self.built = True

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Look up."""
        integers = tf.gather(tf.convert_to_tensor(self.embeddings), ids)
        scale = tf.gather(tf.convert_to_tensor(self.embeddings_scale), ids)
        return tf.cast(integers, tf.float32) * scale[..., tf.newaxis]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The ids' shape with `output_dim` behind it."""
        return (*input_shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
        }


def assign_weights(variables: list[Any], sources: list[Any]) -> None:
    """Give weights the values of others with the same places, whatever either is stored as.

    Args:
        variables: Keras variables: matrices, and for those of integers the scales.
        sources: the same of another model.
    """
    given, own = _by_place(sources), _by_place(variables)
    for place, variable in own.items():
        if _is_scale(place, own):
            continue
        source = given[place]
        values = tf.convert_to_tensor(source.value)
        if _is_integers(source):
            values = dequantized(values, given[place + SCALE].value)
        if _is_integers(variable):
            values, scale = quantize_rows(values)
            own[place + SCALE].assign(scale)
        variable.assign(tf.cast(values, variable.dtype))


def _by_place(variables: list[Any]) -> dict[str, Any]:
    """By their paths without the model's name, which Keras counts."""
    return {variable.path.partition("/")[2]: variable for variable in variables}


def _is_integers(variable: Any) -> bool:
    return variable.dtype == "int8"


def _is_scale(place: str, variables: dict[str, Any]) -> bool:
    matrix = place.removesuffix(SCALE)
    return matrix != place and matrix in variables and _is_integers(variables[matrix])
