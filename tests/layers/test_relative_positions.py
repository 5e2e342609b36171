"""Relative positions compared with their definition, element by element."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import assert_rounded
from tfllm.layers import MultiHeadAttention, RelativePositionBias
from tfllm.layers.relative_positions import distance_buckets


def bucket(distance, num_buckets, max_distance, bidirectional):
    """Raffel et al.'s rule for one distance of a key behind a query."""
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(max_distance / exact)
    return first + min(exact + int(share * (num_buckets - exact) + 1e-6), num_buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (8, 13), (4, 100)])
def test_each_distance_has_the_bucket_of_the_rule(buckets, most, bidirectional):
    given = distance_buckets(buckets, most, bidirectional=bidirectional)
    expected = [bucket(d, buckets, most, bidirectional) for d in range(-most, most + 1)]
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_bias_is_the_number_of_the_bucket(bidirectional):
    layer = RelativePositionBias(
        3, num_buckets=8, max_distance=13, bidirectional=bidirectional, initializer="normal"
    )
    queries, keys = [4, 90], [0, 3, 4, 5, 6, 20, 200]
    given = layer(tf.constant(queries), tf.constant(keys)).numpy()
    assert given.shape == (1, 3, 2, 7)
    table = layer.table.numpy()
    for i, query in enumerate(queries):
        for j, key in enumerate(keys):
            row = table[bucket(key - query, 8, 13, bidirectional)]
            np.testing.assert_array_equal(given[0, :, i, j], row)


@pytest.mark.parametrize(
    "options",
    [
        {"num_buckets": 7},
        {"num_buckets": 6, "bidirectional": True},
        {"num_buckets": 32, "max_distance": 16},
    ],
)
def test_numbers_that_make_no_buckets_are_refused(options):
    with pytest.raises(ValueError, match="num_buckets must be even"):
        RelativePositionBias(2, **options)


def test_unscaled_attention_begins_with_the_scores_of_scaled_attention():
    """And is it, once the queries are divided by the root of their size."""
    x = tf.random.stateless_normal([2, 5, 16], [1, 2])
    scaled, unscaled = (
        MultiHeadAttention(4, kernel_initializer="glorot_uniform", scaled=s) for s in (True, False)
    )
    scaled(x), unscaled(x)
    kernel = scaled.query_key_value.kernel.numpy()
    rows = np.where(np.arange(48) < 16, 0.5, 1.0)[:, np.newaxis]
    ratio = unscaled.query_key_value.kernel.numpy()[:16].std() / kernel[:16].std()
    # The deviation of 256 numbers spread evenly is off by 2.8 % itself (the root of (9/5 - 1) /
    # (4 * 256)), and the ratio of two by 4 %: five times that.
    assert ratio == pytest.approx(0.5, rel=5 * np.sqrt(2 * 0.8 / (4 * 256)))
    unscaled.query_key_value.kernel.assign(kernel * rows)
    unscaled.output_projection.kernel.assign(scaled.output_projection.kernel)
    assert_rounded(scaled(x), unscaled(x), 3 * 16 + 2 * 5)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_a_bias_may_differ_from_head_to_head(num_kv_heads):
    x = tf.random.stateless_normal([2, 5, 16], [1, 2])
    bias = tf.random.stateless_normal([1, 4, 5, 5], [3, 4])
    layer = MultiHeadAttention(4, num_kv_heads=num_kv_heads)
    _, plain = layer(x, return_weights=True)
    _, given = layer(x, bias=bias, return_weights=True)
    expected = tf.nn.softmax(tf.math.log(plain) + bias)
    assert_rounded(given, expected, 3 * 16 + 2 * 5)


def test_keys_and_values_of_a_context_may_be_made_before():
    x = tf.random.stateless_normal([2, 3, 16], [1, 2])
    context = tf.random.stateless_normal([2, 7, 10], [3, 4])
    layer = MultiHeadAttention(4, cross_attention=True)
    expected = layer(x, context=context)
    made = layer.context_key_value(context)
    assert [part.shape for part in made] == [(2, 4, 7, 4)] * 2
    assert_rounded(layer(x, key_value=made), expected, 3 * 16 + 2 * 5)
