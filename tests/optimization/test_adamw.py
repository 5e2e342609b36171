import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.optimization.reference import NumpyAdamW
from tests.rounding import UNIT_ROUNDOFF, assert_rounded, assert_within, rounding
from tfllm.optimization.adamw import AdamW


def variables(rng):
    return [keras.Variable(rng.normal(size=shape).astype("float32")) for shape in ((5, 3), (4,))]


def test_updates_are_the_equations(rng):
    ours = variables(rng)
    optimizer = AdamW(0.01, 0.1, beta_2=0.95)
    optimizer.build(ours)
    reference = NumpyAdamW(0.01, epsilon=optimizer.epsilon)
    expected = [np.asarray(v, np.float64) for v in ours]
    for _ in range(30):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in ours]
        optimizer.apply([tf.constant(g) for g in gradients], ours)
        expected = reference.update(expected, gradients)
    for mine, theirs in zip(ours, expected, strict=True):
        assert_rounded(mine, theirs, 30 * 8)  # steps of 8 operations


def test_updates_are_those_of_keras(rng):
    results = []
    for make in (lambda **o: AdamW(decay_vectors=True, **o), keras.optimizers.AdamW):
        rng = np.random.default_rng(1)
        vs = variables(rng)
        optimizer = make(learning_rate=0.01, weight_decay=0.3, clipnorm=0.5)
        for _ in range(20):
            optimizer.apply([tf.constant(rng.normal(size=v.shape), tf.float32) for v in vs], vs)
        results.append(vs)
    for mine, theirs in zip(*results, strict=True):
        assert_rounded(mine, theirs, 20 * 8)


def test_only_matrices_decay(rng):
    matrix, vector = variables(rng)
    before = np.asarray(matrix).copy(), np.asarray(vector).copy()
    optimizer = AdamW(0.5, 0.1)
    optimizer.apply([tf.zeros(matrix.shape), tf.zeros(vector.shape)], [matrix, vector])
    assert_within(matrix, before[0] * 0.95, rounding(2) * np.abs(before[0]))
    np.testing.assert_array_equal(vector, before[1])


def test_repeated_rows_of_a_sparse_gradient_are_added_up(rng):
    ((dense_table, _), (sparse_table, _)) = (variables(np.random.default_rng(1)) for _ in range(2))
    rows = tf.IndexedSlices(tf.ones([3, 3]), tf.constant([1, 1, 4]), tf.constant([5, 3]))
    AdamW(0.1).apply([tf.convert_to_tensor(rows)], [dense_table])
    AdamW(0.1).apply([rows], [sparse_table])
    assert_rounded(dense_table, sparse_table, 8)


def test_config_round_trip():
    optimizer = AdamW(0.01, 0.2, decay_vectors=True, beta_1=0.8, global_clipnorm=1.0)
    config = optimizer.get_config()
    assert AdamW.from_config(config).get_config() == config
    serialized = keras.optimizers.serialize(optimizer)
    assert keras.optimizers.deserialize(serialized).get_config() == config
    assert config["decay_vectors"] is True


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="amsgrad is not supported"):
        AdamW(amsgrad=True)


def test_bfloat16_weights_move(rng):
    """Step numbers and powers of beta_2 are not exact in bfloat16."""
    weight = keras.Variable(np.ones((4, 4), "float32"), dtype="bfloat16")
    optimizer = AdamW(0.1, 0.0, beta_2=0.95)
    for _ in range(3):
        optimizer.apply([tf.ones([4, 4], tf.bfloat16)], [weight])
    # A step of 0.1 has nine roundings: the last is that of a weight of about 1, the others are of
    # the step. The largest are those of the two betas: as parts of 1 - beta they are 9 and 19 u,
    # of which the root halves the second.
    largest = 3 * (1 + 0.1 * (6 + 9 + 19 / 2)) * UNIT_ROUNDOFF["bfloat16"]
    assert_within(weight.value, np.full((4, 4), 0.7), largest)
