"""Products of rows of floats with int8 matrices, computed in integers by an op of TensorFlow.

Casting a matrix of integers to floats at every step costs more than the product itself. The op
`_QuantizedMatMul`, which TensorFlow has wherever it is built with oneDNN, multiplies the integers
as they are, with VNNI or AMX instructions if the processor has them.

Activations of 8 bits lose accuracy (SmolLM2-135M: 4 % of its perplexity), and on processors
without VNNI the sums of products of 8 bits with 8 bits saturate without an error. So each row is
rounded to 14 bits here and given as two rows of 7 bits, whose products are exact on every
processor; a second row costs almost nothing. The rows are not negative: the sums of the matrix's
rows, which correct for that, are the product with one more row, of ones.

Shape letters: R rows of input, I input size, O output size.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_library

_HALF = 2**13
"""steps of a row's largest magnitude: a rounded row has 14 bits"""
_BITS = 7
_LARGEST_INPUT = 2**31 // 127**2
"""input size whose sums of products still are int32 numbers"""
_OPERATION = "_QuantizedMatMul"


def integer_product(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """rows Wᵀ for W of integers, with the rows rounded to 14 bits.

    Args:
        rows: float `[R, I]`. A row that is not finite has a result that is not, either.
        matrix: int8 `[O, I]`.

    Returns:
        float32 `[R, O]`, without a gradient.
    """
    rows = tf.cast(rows, tf.float32)
    step = tf.reduce_max(tf.abs(rows), axis=1, keepdims=True) * (1 / (_HALF - 1))
    rounded = tf.cast(tf.round(tf.math.divide_no_nan(rows, step)), tf.int32) + _HALF
    upper = tf.bitwise.right_shift(rounded, _BITS)
    lower = tf.bitwise.bitwise_and(rounded, 2**_BITS - 1)
    ones = tf.ones([1, rows.shape[1]], tf.uint8)
    parts = tf.concat([tf.cast(upper, tf.uint8), tf.cast(lower, tf.uint8), ones], 0)
    num = tf.shape(rows)[0]
    of_upper, of_lower, sums = tf.split(_multiplied(parts, matrix), [num, num, 1])
    middle = _HALF >> _BITS
    return ((of_upper - middle * sums) * 2.0**_BITS + of_lower) * step


def _multiplied(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Products of integers: uint8 `[R, I]`, up to 127, and int8 `[O, I]` to float32 `[R, O]`."""
    matrix = tf.convert_to_tensor(matrix)
    # The operation is made as a node of a graph only.
    return (_from_eager if tf.executing_eagerly() else _node)(rows, matrix)


@tf.autograph.experimental.do_not_convert
def _node(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    # It is not in tf.raw_ops, as its name begins with an underscore. The ranges make its scale 1:
    # other ones are a key of oneDNN's cache, by their values or their addresses. With
    # is_weight_const it would keep a reordered copy of the matrix for each place in each graph
    # that it stands in, and would not see the variable change.
    zero, largest_row = tf.constant(0.0), tf.constant(255.0)
    lowest, highest = tf.constant(-127.0), tf.constant(127.0)
    made: Any = op_def_library._apply_op_helper(
        _OPERATION,
        name="integer_product",
        device_inputs=[
            tf.bitcast(rows, tf.quint8),
            tf.bitcast(matrix, tf.qint8),
            tf.zeros(tf.shape(matrix)[:1]),
            zero,
            largest_row,
            lowest,
            highest,
        ],
        host_inputs=[],
        Tdevice_outputs=[tf.float32],
        Thost_outputs=[],
        T1=tf.quint8,
        T2=tf.qint8,
        Tbias=tf.float32,
        U=tf.float32,
        Tout=tf.float32,
        transpose_a=False,
        transpose_b=True,
        is_weight_const=False,
        is_bias_const=False,
        fused_ops=["BiasAdd", "Dequantize"],
        leakyrelu_alpha=0.2,  # has no default
        input_quant_mode="SCALED",
        output_quant_mode="SCALED",
    )
    return made[2].outputs[0]


_from_eager = tf.function(_node, reduce_retracing=True)


def sums_fit(matrix: Any) -> bool:
    """Whether the sums of a product with a matrix `[O, I]` cannot overflow."""
    return matrix.shape[1] < _LARGEST_INPUT


@functools.cache
def has_integer_kernel() -> bool:
    """Whether TensorFlow on this machine can run `integer_product`: found out by running it."""
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return False  # the operation is for CPUs
    rows, matrix = tf.constant([[1.0, -2.0, 0.5]]), tf.constant([[3, 4, 5], [-6, 7, 8]], tf.int8)
    try:
        made = tf.function(integer_product)(rows, matrix).numpy()
    except (tf.errors.OpError, ValueError, TypeError):
        return False
    return bool(abs(made - [[-2.5, -16.0]]).max() < 1e-2)
