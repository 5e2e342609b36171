"""Products of integers, held against exact arithmetic."""

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import assert_within
from tfllm.layers import integer_product as module
from tfllm.layers.integer_product import has_integer_kernel, integer_product, sums_fit
from tfllm.layers.projection import Projection
from tfllm.layers.quantized import Int8Policy, int8_product, quantize_rows
from tfllm.optimization.precision import has_int8_kernels, keras_policy

pytestmark = pytest.mark.skipif(
    not has_integer_kernel(), reason="this TensorFlow has no kernel for products of integers"
)


def integers(rng, *shape):
    return rng.integers(-127, 128, shape).astype(np.int8)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 7, 5), (3, 576, 33), (9, 64, 1)])
def test_rows_of_integers_are_multiplied_exactly(rng, rows, inputs, outputs, eager):
    x = rng.integers(-8191, 8192, (rows, inputs))
    x[:, 0] = 8191  # so that a step is 1
    matrix = integers(rng, outputs, inputs)
    run = integer_product if eager else tf.function(integer_product)
    exact = (x @ matrix.T.astype(np.int64)).astype(np.float64)
    # Sums of integers are exact; as floats they are rounded, twice those of 128 times the sums.
    size = 128 * 64 * np.abs(matrix.astype(np.float64)).sum(1)
    assert_within(run(tf.constant(x, tf.float32), matrix), exact, 6 * 2.0**-24 * size)


def test_other_rows_are_rounded_to_a_8191th_of_their_largest(rng):
    x = rng.normal(size=(4, 300)) * np.geomspace(1e-6, 1e6, 4)[:, np.newaxis]
    x[2] = 0
    x = x.astype(np.float32)
    x[1, 7] *= 1000  # an outlier
    matrix = integers(rng, 20, 300)
    exact = x.astype(np.float64) @ matrix.T.astype(np.float64)
    half_step = np.abs(x).max(1, keepdims=True) / (2 * 8191)
    size = np.abs(matrix.astype(np.float64)).sum(1)
    # Each number is off by at most half a step, and what is added and scaled is rounded.
    assert_within(integer_product(tf.constant(x), matrix), exact, 1.001 * half_step * size)


def test_what_is_no_number_stays_none(rng):
    x = np.array([[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 0, 0], [1, 2, 3]], np.float32)
    y = integer_product(tf.constant(x), integers(rng, 5, 3)).numpy()
    assert not np.isfinite(y[:3]).any() and np.isfinite(y[3]).all()
    none = integer_product(tf.zeros([0, 3]), integers(rng, 5, 3))
    assert none.shape == (0, 5)


def test_sums_that_could_overflow_are_not_made():
    assert sums_fit(tf.zeros([1, 133_000], tf.int8))
    assert not sums_fit(tf.zeros([1, 134_000], tf.int8))
    longest = np.full((1, 133_000), 127, np.int8)
    y = integer_product(tf.ones([1, 133_000]), longest)
    np.testing.assert_array_equal(y, [[133_000 * 127]])


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.half_precision)]
)
def test_its_gradient_is_that_of_the_product_of_floats(rng, dtype):
    matrix, scale = quantize_rows(rng.normal(size=(23, 30)))
    x = tf.cast(rng.normal(size=(2, 30)), dtype)
    gradients = []
    for as_integers in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = int8_product(x, matrix, scale, as_integers=as_integers)
            assert y.dtype == dtype
            total = tf.reduce_sum(tf.cast(y, tf.float32))
        gradients.append(tape.gradient(total, x))
    np.testing.assert_array_equal(*[tf.cast(g, tf.float32) for g in gradients])


def test_a_projection_multiplies_integers_for_few_rows_only(rng, monkeypatch):
    layer = Projection(12, dtype=Int8Policy("int8_float32_onednn"))
    layer.build((None, 10))
    layer.assign_kernel(rng.normal(size=(12, 10)).astype(np.float32))
    made, x = [], tf.constant(rng.normal(size=(2, 10)), tf.float32)
    node = module._node
    monkeypatch.setattr(module, "_from_eager", lambda *given: made.append(1) or node_of(*given))
    node_of = tf.function(node)
    few = layer(x)
    assert len(made) == 1
    many = layer(x[:, tf.newaxis])[:, 0]
    assert len(made) == 1
    np.testing.assert_allclose(few, many, atol=np.abs(many).max() * 1e-3)
    assert np.any(few.numpy() != many.numpy())


def test_the_choice_is_a_policy():
    auto, portable = keras_policy("int8"), keras_policy("int8_portable")
    assert auto.name == keras_policy("int8_onednn").name == portable.name + "_onednn"
    assert auto.compute_dtype == portable.compute_dtype
    with pytest.raises(ValueError, match="one of auto, portable, onednn; received 'vnni'"):
        has_int8_kernels("vnni")


def test_without_a_kernel_the_products_are_of_floats(monkeypatch):
    monkeypatch.setattr("tfllm.optimization.precision.has_integer_kernel", lambda: False)
    assert keras_policy("int8") == keras_policy("int8_portable")
    with pytest.raises(ValueError, match="int8_kernels='onednn' needs a TensorFlow for CPUs"):
        keras_policy("int8_onednn")


def test_while_decoding_the_number_of_rows_decides(rng):
    layer = Projection(12, dtype=Int8Policy("int8_float32_onednn"))
    layer.build((None, 10))
    layer.assign_kernel(rng.normal(size=(12, 10)).astype(np.float32))
    run = tf.function(lambda x: layer(x, decoding=True))
    x = tf.constant(rng.normal(size=(65, 10)), tf.float32)
    layer_values = layer.kernel, layer.kernel_scale
    for rows in (64, 65):
        given = x[:rows]
        made = run(given[tf.newaxis])[0]
        off = {  # by rounding where the product is the same, else by that of the activations
            as_integers: np.abs(
                made - int8_product(given, *layer_values, as_integers=as_integers)
            ).max()
            for as_integers in (True, False)
        }
        assert off[rows == 64] < 1e-5 < 4e-5 < off[rows != 64]
    assert np.array_equal(layer(x[tf.newaxis, :2])[0], int8_product(x[:2], *layer_values))
