"""The bounds of `tests.rounding` allow rounding errors, and nothing else."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import (
    DEVIATIONS,
    SIDES,
    additions_of_sum,
    assert_within,
    input_rounding,
    rounding,
    weight_rounding,
)
from tfllm.models.causal_lm import CausalLM


def test_sums_in_another_order_are_within_the_bound(rng):
    x = rng.normal(size=(200, 400)).astype("float32")
    exact = x.astype("float64").sum(1)
    bound = rounding(400, np.abs(x).sum(1) / 400 * 20)  # as large as partial sums are
    one_by_one = np.add.accumulate(x, axis=1, dtype="float32")[:, -1]
    assert_within(one_by_one, exact, bound)
    assert_within(x[:, ::-1].sum(1), one_by_one, bound)
    with pytest.raises(AssertionError, match="200 of 200 values are off by more"):
        assert_within(exact + 1e-3, exact, bound)


def test_the_bound_follows_the_dtype_and_the_number_of_additions():
    assert rounding(400, 2.0) == 2 * rounding(400)
    assert rounding(400) == 2 * rounding(100)
    assert rounding(100, dtype="bfloat16") == 2**16 * rounding(100)


@pytest.mark.parametrize(("terms", "additions"), [(400, 50), (20, 1000)])
def test_the_bound_of_a_sum_is_a_few_times_what_its_terms_and_additions_give(terms, additions, rng):
    exact = rng.uniform(1, 2, size=(2000, terms))
    deviation = rounding(additions) / (SIDES * DEVIATIONS)
    given = exact * (1 + deviation * rng.normal(size=exact.shape))
    given = np.add.accumulate(given.astype("float32"), axis=1, dtype="float32")[:, -1]
    bound = rounding(additions_of_sum(terms, additions)) * exact.sum(1)
    assert_within(given, exact.sum(1), bound)
    with pytest.raises(AssertionError, match="off by more"):
        assert_within(given, exact.sum(1), bound / 6)


@pytest.fixture
def model(tiny_config, rng):
    model = CausalLM(tiny_config)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.3 + (len(weight.shape) == 1))
    return model


def changed(model, **options):
    other = CausalLM(dataclasses.replace(model.config, **options))
    for mine, theirs in zip(other.weights, model.weights, strict=True):
        mine.assign(theirs)
    return other


def test_faults_are_outside_the_bound_of_a_model(model, rng):
    ids = rng.integers(0, 61, size=(2, 12)).astype("int32")
    before = [weight.numpy() for weight in model.weights]
    bound, expected = weight_rounding(model, lambda: model(ids)), model(ids).numpy()
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)  # as it was
    assert bound.shape == (2, 12, 1)
    assert bound.max() < 1e-4  # of logits of about 1, so that faults have no room in it
    shifted = np.roll(ids, 1, axis=1)
    mask = np.ones(ids.shape, bool)
    mask[1, 3] = False
    segments = np.repeat([1, 2], 6)[np.newaxis].repeat(2, 0)
    faults = {
        "one token shifted": model(shifted),
        "a token hidden": model({"token_ids": ids, "padding_mask": mask}),
        "a document's end that is none": model({"token_ids": ids, "segment_ids": segments}),
        "another epsilon": changed(model, norm_epsilon=1e-6 + model.config.norm_epsilon)(ids),
        "another base of the angles": changed(model, rope_theta=10_100.0)(ids),
        "a window of all but one": changed(model, sliding_window=11)(ids),
    }
    for name, given in faults.items():
        share = np.abs(np.asarray(given) - expected) / bound
        assert share.max() > 1, name


def test_a_value_that_is_not_a_number_is_outside():
    with pytest.raises(AssertionError, match="1 of 2 values"):
        assert_within([1.0, np.nan], [1.0, 1.0], 1e3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bound_of_a_function_follows_its_inputs(dtype, rng):
    x, y = (tf.cast(rng.normal(size=size), dtype) for size in ((9, 40), (40, 7)))
    exact = tf.matmul(tf.cast(x, tf.float64), tf.cast(y, tf.float64))
    bound = input_rounding(lambda a, b: a @ b, x, y, dtype=dtype)
    assert bound.shape == (9, 1)
    assert_within(tf.matmul(x, y), exact, bound)
    with pytest.raises(AssertionError, match="63 of 63 values"):
        assert_within(exact + 2 * bound, exact, bound)
    assert_within(bound * 2**10, input_rounding(lambda a, b: a @ b, 2**10 * x, y, dtype=dtype), 0)
