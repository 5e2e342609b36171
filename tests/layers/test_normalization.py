import numpy as np
import pytest
import tensorflow as tf

from tests.layers.numpy_reference import layer_norm, rms_norm
from tests.rounding import UNIT_ROUNDOFF, assert_rounded, assert_within, rounding
from tfllm.layers import LayerNorm, RMSNorm
from tfllm.layers.normalization import norm_layer


@pytest.mark.parametrize("scale_of_input", [1e-3, 1.0, 1e3])
def test_rms_norm_is_its_equation(scale_of_input, rng):
    x = rng.normal(size=(2, 3, 8)) * scale_of_input
    layer = RMSNorm(epsilon=1e-5)
    layer.build(x.shape)
    layer.scale.assign(rng.normal(size=8))
    expected = rms_norm(x, np.asarray(layer.scale), 1e-5)
    assert_rounded(layer(x.astype("float32")), expected, 2 * 8)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_is_its_equation(offset, rng):
    x = rng.normal(size=(2, 3, 8)) + offset
    layer = LayerNorm(epsilon=1e-5)
    layer.build(x.shape)
    layer.scale.assign(rng.normal(size=8))
    layer.bias.assign(rng.normal(size=8))
    expected = layer_norm(x, np.asarray(layer.scale), np.asarray(layer.bias), 1e-5)
    # The mean is taken away: what comes in is rounded relative to its offset.
    bound = rounding(2 * 8, (1 + offset) * np.abs(np.asarray(layer.scale)).max())
    assert_within(layer(x.astype("float32")), expected, bound)


@pytest.mark.parametrize("layer_type", [RMSNorm, LayerNorm])
def test_statistics_are_float32_under_bfloat16(layer_type, rng):
    x = (rng.normal(size=(4, 64)) + 30).astype("float32")  # bfloat16 has 8 bits: 30.1 is 30.125
    mixed, exact = layer_type(dtype="mixed_bfloat16"), layer_type()
    y = mixed(x)
    assert y.dtype == tf.bfloat16
    assert all(w.dtype == "float32" for w in mixed.weights)
    assert_within(y, exact(x), UNIT_ROUNDOFF["bfloat16"] * np.abs(exact(x)))  # of the result alone


def test_float16_squares_do_not_overflow():
    y = RMSNorm(dtype="mixed_float16")(np.full((1, 4), 1000.0, "float32"))
    assert_within(y, np.ones((1, 4)), UNIT_ROUNDOFF["float16"])  # of the result alone


def test_unknown_kinds_and_epsilons_are_refused():
    with pytest.raises(ValueError, match="norm must be one of rms, layer; received 'batch'"):
        norm_layer("batch", 1e-5)
    with pytest.raises(ValueError, match="epsilon must be positive; received 0"):
        RMSNorm(epsilon=0)
