"""The top k of many numbers, compared with `tf.math.top_k`, including ties."""

import numpy as np
import pytest
import tensorflow as tf

from tfllm.generation.top_k import top_k

# Few numbers, a square, a prime, and the sizes of vocabularies: of Marian, T5 and the original.
SIZES = (3, 100, 1_024, 9_973, 32_128, 37_000, 58_101)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("kind", ["different", "equal", "forbidden", "all forbidden"])
def test_as_tensorflow_finds_them(size, k, kind):
    chance = np.random.default_rng(size + k)
    values = chance.normal(size=(5, size)).astype(np.float32)
    if kind == "equal":  # a few numbers alone, each of them many times
        values = np.round(values)
    if kind == "forbidden":  # fewer are left than are asked for
        values = np.where(np.arange(size) >= size - 2, values, -np.inf).astype(np.float32)
    if kind == "all forbidden":
        values = np.full_like(values, -np.inf)
    found, places = tf.function(top_k)(tf.constant(values), min(k, size))
    wanted, wanted_places = tf.math.top_k(values, min(k, size))
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(places, wanted_places)


def test_equal_numbers_in_many_blocks():
    values = tf.constant(np.random.default_rng(0).integers(0, 3, (50, 10_000)), tf.float32)
    found, places = top_k(values, 8)
    wanted, wanted_places = tf.math.top_k(values, 8)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(places, wanted_places)
