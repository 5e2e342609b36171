"""Int8 matrices compared with float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import UNIT_ROUNDOFF, assert_rounded, assert_within
from tfllm.layers import quantized
from tfllm.layers.projection import Projection
from tfllm.layers.quantized import (
    Int8Embedding,
    Int8Policy,
    dequantized,
    int8_product,
    quantize_rows,
)


def matrix(rows, columns, seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    return values * np.geomspace(1e-4, 1e3, rows, dtype=np.float32)[:, np.newaxis]


def test_each_number_is_rounded_to_the_nearest_of_127_steps_of_its_row():
    values = matrix(40, 33)
    integers, scale = (x.numpy() for x in quantize_rows(values))
    assert integers.dtype == np.int8 and scale.dtype == np.float32
    largest = np.abs(values.astype(np.float64)).max(1)
    # The quotient is rounded, and then up to the next number of bfloat16, at most 2 u away.
    u = UNIT_ROUNDOFF["float32"]
    assert (scale >= largest / 127 * (1 - u)).all()
    assert (scale <= largest / 127 * (1 + u) * (1 + 2 * UNIT_ROUNDOFF["bfloat16"])).all()
    np.testing.assert_array_equal(tf.cast(tf.cast(scale, tf.bfloat16), tf.float32), scale)
    error = np.abs(integers.astype(np.float64) * scale[:, np.newaxis] - values)
    assert (
        error <= (0.5 + 127 * u) * scale[:, np.newaxis]
    ).all()  # a quotient up to 127 is rounded
    assert (np.abs(integers).max(1) >= 126).all()


def test_a_row_of_zeros_and_the_least_and_largest_numbers_are_kept_finite():
    values = np.zeros((4, 8), np.float32)
    values[1, 2], values[2, 3], values[3, :2] = 1e-38, 3e38, (-1.0, 1.0)
    integers, scale = quantize_rows(values)
    assert np.isfinite(scale.numpy()).all() and (scale.numpy() > 0).all()
    back = dequantized(integers, scale).numpy()
    # Each row's largest is 126 or 127 of its steps: a half step is at most 1 in 252 of it. A number
    # below the least normal one may become 0.
    assert_within(back, values, np.abs(values) / 252 + np.finfo(np.float32).tiny)


@pytest.mark.parametrize("chunk", [2**21, 100, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_and_gradients_are_those_of_the_values(monkeypatch, chunk, dtype):
    monkeypatch.setattr(quantized, "_CHUNK_ELEMENTS", chunk)
    integers, scale = quantize_rows(np.random.default_rng(1).normal(size=(23, 30)))
    x = tf.cast(tf.random.stateless_normal([5, 30], [0, 1]), dtype)
    upstream = tf.cast(tf.random.stateless_normal([5, 23], [2, 3]), dtype)
    w = dequantized(integers, scale, tf.float64).numpy()

    @tf.function
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = int8_product(x, integers, scale)
        return y, tape.gradient(y, x, upstream)

    y, gradient = both(x)
    assert y.dtype == gradient.dtype == dtype
    x64, u64 = tf.cast(x, tf.float64).numpy(), tf.cast(upstream, tf.float64).numpy()
    # Sums are float32: in bfloat16 the scale, the product with it and the result are rounded.
    additions = {"float32": 30, "bfloat16": 3}[dtype]
    assert_rounded(y, x64 @ w.T, additions, dtype)
    assert_rounded(gradient, u64 @ w, additions, dtype)


def test_an_embedding_of_integers_gives_their_values():
    layer = Int8Embedding(9, 6, dtype=Int8Policy("int8_bfloat16"))
    layer.build((None,))
    integers, scale = quantize_rows(matrix(9, 6))
    layer.embeddings.assign(integers)
    layer.embeddings_scale.assign(scale)
    ids = np.array([[0, 8], [3, 3]])
    np.testing.assert_array_equal(layer(ids), dequantized(integers, scale).numpy()[ids])
    assert not layer.trainable_weights
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.dtype_policy == layer.dtype_policy and again.compute_dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"name must be one of int8_float32.*received 'int8_int4'"):
        Int8Policy("int8_int4")


def test_a_projection_of_integers_is_one_of_their_values_and_takes_adapters():
    values = np.random.default_rng(3).normal(size=(12, 10)).astype(np.float32)
    x = tf.random.stateless_normal([2, 3, 10], [4, 5])
    whole, eighth = (
        Projection(12, use_bias=True, dtype=dtype)
        for dtype in ("float32", Int8Policy("int8_float32"))
    )
    for layer in (whole, eighth):
        layer.build((None, 10))
        layer.assign_kernel(values)
    assert eighth.kernel.dtype == "int8"
    assert {w.path.rsplit("/", 1)[1] for w in eighth.trainable_weights} == {"bias"}
    whole.assign_kernel(eighth.kernel_values())
    assert_rounded(whole(x), eighth(x), 10)
    for layer in (whole, eighth):
        layer.add_adapter("a", [(0, 12, 4, 0.5)], seed=1)
        for variable in layer.adapters["a"].weights:
            variable.assign(keras.random.normal(variable.shape, seed=7))
        layer.use_adapter("a")
    assert_rounded(whole(x), eighth(x), 10 + 4)
    with pytest.raises(ValueError, match=r"these are int8\. Load the base model with"):
        eighth.merge_adapter("a")
