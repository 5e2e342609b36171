"""Matrices stored as 8-bit integers with a scale for each row: a quarter of float32's size.

Only the weights are integers: they are cast to the compute dtype when they are used, and the result
is multiplied by the scale (Dettmers et al., LLM.int8(), 2022, without its outliers). Integers up to
127 are exact in bfloat16, and so are the scales, so that rounding to integers is the only loss. If
there are few rows, the integers themselves may be multiplied (`integer_product`). The matrices are
not trained; gradients flow through them.

Shape letters: R rows of input, I input size, O output size.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.integer_product import integer_product, sums_fit

_MOST = 127
# Number of a matrix's elements that are cast to floats at once: few enough to stay in the
# processor's cache, and not to hold a large matrix in memory a second time.
_CHUNK_ELEMENTS = 2**21

_FEW_ROWS = 64
"""Up to how many rows a product of integers is faster than one in float32. With AMX, half as many
are faster than one in bfloat16."""

SCALE = "_scale"
"""suffix that a matrix's name has in the name of its scales"""


@keras.saving.register_keras_serializable("tfllm")
class Int8Policy(keras.DTypePolicy):
    """Dtype policy that stores matrices as integers; other weights and all products are floats.

    (Keras' `QuantizedDTypePolicy` requires methods that only Keras' own layers have.)

    Args:
        name: "int8_float32" or "int8_bfloat16"; with the suffix "_onednn", products with few
            rows, as in decoding, are products of integers (`integer_product`).
    """

    def _parse_name(self, name: str) -> tuple[str, str]:
        if name not in INT8_POLICIES:
            raise ValueError(f"name must be one of {', '.join(INT8_POLICIES)}; received {name!r}")
        dtype = name.removeprefix("int8_").removesuffix(ONEDNN)
        return dtype, dtype


ONEDNN = "_onednn"
INT8_POLICIES = (
    "int8_float32",
    "int8_bfloat16",
    f"int8_float32{ONEDNN}",
    f"int8_bfloat16{ONEDNN}",
)


def int8_policy(dtype: Any) -> Any:
    """The `Int8Policy` of that name, which Keras does not know; any other dtype unchanged."""
    return Int8Policy(dtype) if dtype in INT8_POLICIES else dtype


def is_int8(policy: Any) -> bool:
    """Whether a dtype policy stores matrices as integers."""
    return isinstance(policy, Int8Policy)


def multiplies_integers(policy: Any) -> bool:
    """Whether under a dtype policy products with few rows are products of integers."""
    return is_int8(policy) and policy.name.endswith(ONEDNN)


def check_int8(mode: str | None, config: Any, what: str) -> None:
    """Check the arguments of `quantize`: tfllm supports fewer than Keras.

    Args:
        mode: mode, as for Keras' `quantize`.
        config: quantization configuration, as for Keras' `quantize`.
        what: name of the class that is to be quantized, for the error.

    Raises:
        ValueError: a mode other than "int8", or a quantizer for the weights.
    """
    mode = getattr(config, "mode", mode)
    if mode != "int8":
        raise ValueError(
            f"the mode of quantize must be 'int8' for a {what}; received {mode!r}. Other ways to a "
            "smaller model are model.with_dtype('bfloat16') and dtype='int8' when it is loaded or "
            "exported"
        )
    if getattr(config, "weight_quantizer", None) is not None:
        raise ValueError(
            f"a {what} scales each row of a matrix by its largest magnitude; another "
            f"weight_quantizer is not supported; received {config.weight_quantizer}"
        )


def quantize_rows(values: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Round a matrix to int8, with a scale for each row.

    Args:
        values: float `[O, I]`.

    Returns:
        the integers, int8 `[O, I]`, and the scales, float32 `[O]`: the largest magnitude of each
        row divided by 127, rounded up to a bfloat16 number.
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
    """The float matrix `[O, I]` that integers `[O, I]` and scales `[O]` represent."""
    return tf.cast(integers, dtype) * tf.cast(scale, dtype)[:, tf.newaxis]


def are_few(rows: tf.Tensor) -> tf.Tensor:
    """Whether `[R, I]` are so few rows that multiplying integers is faster, a bool scalar."""
    most = _FEW_ROWS if rows.dtype == tf.float32 else _FEW_ROWS // 2
    return tf.shape(rows)[0] <= most


def int8_product(
    rows: tf.Tensor, integers: Any, scale: Any, *, as_integers: bool | tf.Tensor = False
) -> tf.Tensor:
    """rows Wᵀ, for W stored as integers and scales.

    Args:
        rows: float `[R, I]`.
        integers: int8 `[O, I]`.
        scale: float32 `[O]`.
        as_integers: whether to multiply integers (`integer_product`), which is faster for few rows.
            Matrices whose sums might overflow are multiplied as floats. A tensor, bool scalar, is
            decided when the graph runs. Defaults to False.

    Returns:
        `[R, O]` in the dtype of `rows`; only `rows` gets a gradient.
    """
    matrix, factors = tf.convert_to_tensor(integers), tf.convert_to_tensor(scale)
    sizes = _chunk_sizes(*matrix.shape)

    # The gradient casts the integers again: otherwise the tape would keep all matrices as floats.
    @tf.custom_gradient
    def product(rows: tf.Tensor) -> Any:
        dtype = rows.dtype

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            upstream *= tf.cast(factors, dtype)
            parts = zip(tf.split(upstream, sizes, 1), tf.split(matrix, sizes), strict=True)
            return tf.add_n([tf.matmul(up, tf.cast(part, dtype)) for up, part in parts])

        def of_integers() -> tf.Tensor:
            return tf.cast(integer_product(rows, matrix) * factors, dtype)

        def of_floats() -> tf.Tensor:
            parts = [
                tf.matmul(rows, tf.cast(part, dtype), transpose_b=True)
                for part in (tf.split(matrix, sizes) if len(sizes) > 1 else [matrix])
            ]
            y = tf.concat(parts, 1) if len(parts) > 1 else parts[0]
            return y * tf.cast(factors, dtype)

        if as_integers is False or not sums_fit(matrix):
            return of_floats(), gradient
        if as_integers is True:
            return of_integers(), gradient
        return tf.cond(as_integers, of_integers, of_floats), gradient

    return product(rows)


def _chunk_sizes(outputs: int, inputs: int) -> list[int]:
    """Numbers of a matrix's rows that are used at once."""
    most = max(1, _CHUNK_ELEMENTS // inputs)
    return [min(most, outputs - begin) for begin in range(0, outputs, most)]


def add_int8_matrix(layer: keras.layers.Layer, name: str, shape: tuple[int, int]) -> Any:
    """Create the weights of an int8 matrix, which is 0 until it is assigned.

    Returns:
        the variable with the integers; the scales are the layer's attribute `NAME_scale`.
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
    """Embedding whose table is stored as integers with a scale for each row.

    Args:
        input_dim: number of ids.
        output_dim: size of an embedding.
        dtype: an `Int8Policy` or its name. Defaults to "int8_float32".

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
        """Look up the embeddings."""
        integers = tf.gather(tf.convert_to_tensor(self.embeddings), ids)
        scale = tf.gather(tf.convert_to_tensor(self.embeddings_scale), ids)
        return tf.cast(integers, tf.float32) * scale[..., tf.newaxis]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The ids' shape followed by `output_dim`."""
        return (*input_shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
        }


def assign_weights(variables: list[Any], sources: list[Any]) -> None:
    """Copy the weights of one model to another, whether either stores them as floats or int8.

    Args:
        variables: Keras variables to assign, including the scales of int8 matrices.
        sources: Keras variables of the other model; those with the same path are copied.
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
    """Variables by path, without the model's name, to which Keras appends a counter."""
    return {variable.path.partition("/")[2]: variable for variable in variables}


def _is_integers(variable: Any) -> bool:
    return variable.dtype == "int8"


def _is_scale(place: str, variables: dict[str, Any]) -> bool:
    matrix = place.removesuffix(SCALE)
    return matrix != place and matrix in variables and _is_integers(variables[matrix])
