import numpy as np
import pytest
import tensorflow as tf

from tests.layers.numpy_reference import activation
from tests.rounding import UNIT_ROUNDOFF, assert_rounded, assert_within, rounding
from tfllm.layers import FeedForward, Projection
from tfllm.layers.feed_forward import ACTIVATIONS


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_it_is_its_equation_in_float64(name, gated, use_bias, rng):
    layer = FeedForward(12, activation=name, gated=gated, use_bias=use_bias, dtype="float64")
    x = rng.normal(size=(2, 3, 8))
    layer.build(x.shape)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    weights = {w.path.split("/", 1)[1]: np.asarray(w) for w in layer.weights}
    inner = "gate_up" if gated else "up"
    hidden = x @ weights[f"{inner}/kernel"].T + weights.get(f"{inner}/bias", 0)
    if gated:
        hidden = activation(name, hidden[..., :12]) * hidden[..., 12:]
    else:
        hidden = activation(name, hidden)
    expected = hidden @ weights["down/kernel"].T + weights.get("down/bias", 0)
    # erf, and the constants of the tanh form, are of float32.
    assert_rounded(layer(x), expected, 8 + 12, "float32" if "gelu" in name else "float64")


def bfloat16_factors(x, upstream):
    """By how many roundings gelu and its gradient may be off where each step is rounded.

    With the share s = sigmoid(a) and inner = x (1 - s) q, as `gelu_tanh` has them: five roundings
    reach a, one more s; that of s is what 1 - s keeps where it cancels.
    """
    slope, cube = 2 * np.sqrt(2 / np.pi), 2 * np.sqrt(2 / np.pi) * 0.044715
    a, q = x * (slope + cube * x**2), slope + 3 * cube * x**2
    s = 1 / (1 + np.exp(-np.clip(a, -80, 80)))
    of_share = s + 5 * np.abs(a) * s * (1 - s)
    inner = x * (1 - s) * q
    of_inner = np.abs(x) * q * np.where(1 - s > 2.0**-9, of_share, 1 - s) + 5 * np.abs(inner)
    of_slope = of_share * np.abs(1 + inner) + s * of_inner + 4 * s * np.abs(1 + inner)
    return np.abs(x) * (of_share + 2 * s), np.abs(upstream) * of_slope


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gelu_has_the_values_and_the_gradient_of_tensorflows(name, dtype, rng):
    x = tf.constant(np.r_[rng.normal(size=500) * 3, -30, -5, 0, 5, 30], tf.float32)
    upstream = tf.constant(rng.normal(size=x.shape), tf.float32)

    def values_and_gradient(function, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x, tf.cast(upstream, x.dtype))

    exact = values_and_gradient(lambda x: tf.nn.gelu(x, approximate=name == "gelu_tanh"), x)
    # The derivative multiplies 1 - tanh^2, which cancels, by x.
    bounds = [rounding(8) * (1 + np.abs(x))] * 2
    if dtype == "bfloat16":
        factors = bfloat16_factors(*(np.float64(given) for given in (x, upstream)))
        bounds = [UNIT_ROUNDOFF[dtype] * f + rounding(8) * (1 + np.abs(x)) for f in factors]
    found = values_and_gradient(ACTIVATIONS[name], tf.cast(x, dtype))
    for given, expected, bound in zip(found, exact, bounds, strict=True):
        assert given.dtype == dtype
        assert_within(given, expected, bound)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8)])
def test_it_gives_in_training_what_it_gives_in_a_served_graph(name, shape, rng):
    layer = FeedForward(12, activation=name, gated=False, use_bias=True)
    x = tf.constant(rng.normal(size=shape), tf.float32)
    layer.build(x.shape)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    signature = [tf.TensorSpec([None] * (len(shape) - 1) + [8], tf.float32)]
    served = tf.function(layer, input_signature=signature)
    assert_rounded(layer(x, training=True), served(x), 8 + 12)


def test_projection_takes_any_rank(rng):
    layer = Projection(5, use_bias=True)
    x = rng.normal(size=(2, 3, 4, 6)).astype("float32")
    y = layer(x)
    layer.bias.assign(rng.normal(size=5))
    for given in (x, x[0], x[0, 0], np.zeros((0, 6), "float32")):
        expected = given @ np.asarray(layer.kernel).T + np.asarray(layer.bias)
        assert_within(layer(given), expected, rounding(6, 10.0))
    assert y.shape == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeedForward(0), "hidden_dim must be at least 1; received 0"),
        (lambda: FeedForward(4, activation="swish"), "one of silu, gelu.*received 'swish'"),
        (lambda: Projection(0), "output_dim must be at least 1; received 0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_two_weights_of_one_shape_are_alike():
    layer = FeedForward(8, gated=False, kernel_initializer="glorot_normal")
    layer.build((None, 8))
    first, second = (np.asarray(w) for w in layer.weights)
    assert first.shape == second.shape
    assert not np.array_equal(first, second)
