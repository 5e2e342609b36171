import math

import numpy as np
import pytest
import tensorflow as tf

from tests.layers import numpy_reference
from tests.rounding import UNIT_ROUNDOFF, assert_within, in_double, rounding
from tfllm.layers import LearnedPositions, SinusoidalPositions, rotary_tables, rotate
from tfllm.layers.positions import positions_in_segments, rotary_frequencies


def of_angle(angle):
    """By how much the sine or cosine of a frequency times a position may be off: both are rounded,
    as is their product, and the sine to one of the two numbers next to it."""
    return (2 * angle + 2) * UNIT_ROUNDOFF["float32"]


def test_rotation_is_a_turn_in_the_complex_plane(rng):
    x = rng.normal(size=(2, 3, 5, 8))
    positions = np.array([[0, 1, 2, 3, 4], [9, 8, 100, 6, 5]])
    turned = rotate(tf.constant(x), rotary_tables(tf.constant(positions), 8, 1e4, tf.float64))
    for b in range(2):
        expected = numpy_reference.rotate(x[b], positions[b], 1e4)
        angle = positions[b][:, np.newaxis] * numpy_reference.frequencies(8, 1e4)
        assert_within(
            turned[b], expected, np.tile(of_angle(angle), 2) * np.sqrt(2) * np.abs(x).max()
        )


@pytest.mark.parametrize("theta", [500.0, 1e4, 5e5])
def test_scaled_frequencies_are_those_of_the_papers(theta):
    linear = {"rope_type": "linear", "factor": 4.0}
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = numpy_reference.frequencies(128, theta)
    for scaling in (None, linear, llama3, llama3 | {"original_max_position_embeddings": 100}):
        expected = numpy_reference.frequencies(128, theta, scaling)
        given = rotary_frequencies(128, theta, scaling)
        assert given.dtype == np.float32
        assert_within(given, expected, rounding(2) * expected)
    share = expected / plain  # of the last: some stay, some are lowered in full, some lie between
    assert share[0] == 1
    assert np.any((share > 0.13) & (share < 0.99)) and share[-1] == in_double(1 / 8)
    with pytest.raises(ValueError, match="rope_type must be linear or llama3; received 'yarn'"):
        rotary_frequencies(8, theta, {"rope_type": "yarn", "factor": 2.0})


def test_rotated_products_depend_on_distance_only(rng):
    query, key = rng.normal(size=(2, 1, 1, 1, 16))

    def product(query_position, key_position):
        q = rotate(query, rotary_tables(tf.constant([query_position]), 16, 1e4, tf.float64))
        k = rotate(key, rotary_tables(tf.constant([key_position]), 16, 1e4, tf.float64))
        return float(tf.reduce_sum(q * k))

    bound = rounding(16, 103.0)
    assert_within(product(103, 101), product(3, 1), bound)
    assert abs(product(4, 1) - product(3, 1)) > 100 * bound


def test_sinusoidal_positions_are_the_papers(rng):
    y = np.asarray(SinusoidalPositions()(np.zeros((1, 50, 12), "float32")))[0]
    for position in (0, 1, 17, 49):
        for i in range(6):
            angle = position / 10000 ** (2 * i / 12)
            assert_within(y[position, i], math.sin(angle), of_angle(angle))
            assert_within(y[position, 6 + i], math.cos(angle), of_angle(angle))
    with pytest.raises(ValueError, match="even width; received 7"):
        SinusoidalPositions()(np.zeros((1, 2, 7), "float32"))


@pytest.mark.parametrize("layer_type", [LearnedPositions, SinusoidalPositions])
def test_given_positions_look_up_the_same_vectors(layer_type):
    layer = layer_type(20) if layer_type is LearnedPositions else layer_type()
    x = np.zeros((2, 4, 6), "float32")
    counted = np.asarray(layer(x))
    assert counted.shape == (1, 4, 6)
    given = np.asarray(layer(x, positions=np.array([[3, 2, 1, 0], [0, 0, 1, 1]])))
    np.testing.assert_array_equal(given[0], counted[0, ::-1])
    np.testing.assert_array_equal(given[1], counted[0, [0, 0, 1, 1]])


def test_a_sequence_longer_than_the_table_is_refused():
    layer = LearnedPositions(4)
    with pytest.raises(ValueError, match="max_length=4 tokens; received 5"):
        layer(np.zeros((1, 5, 6), "float32"))


@pytest.mark.parametrize("known", [True, False])
def test_positions_restart_in_every_segment(known, rng):
    rows = []
    for _ in range(20):
        lengths = rng.integers(1, 6, size=12)
        ids = rng.choice([1, 2, 3, 4, 5, 0], size=12)
        ids[1:] = np.where(ids[1:] == ids[:-1], ids[1:] + 10, ids[1:])
        rows.append(np.repeat(ids, lengths)[:12])
    segment_ids = np.stack(rows).astype("int32")
    expected = np.zeros_like(segment_ids)
    for b, t in np.ndindex(*segment_ids.shape):
        if t and segment_ids[b, t] == segment_ids[b, t - 1]:
            expected[b, t] = expected[b, t - 1] + 1
    spec = tf.TensorSpec(segment_ids.shape if known else [None, None], tf.int32)
    graph = tf.function(positions_in_segments, input_signature=[spec])
    np.testing.assert_array_equal(graph(segment_ids), expected)
    np.testing.assert_array_equal(
        positions_in_segments(tf.constant([[1, 1, 1, 2, 2]])), [[0, 1, 2, 0, 1]]
    )
    assert positions_in_segments(tf.zeros([2, 0], tf.int32)).shape == (2, 0)
