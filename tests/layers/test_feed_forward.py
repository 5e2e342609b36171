import numpy as np
import pytest

from tests.layers.numpy_reference import activation
from tfllm.layers import FeedForward, Projection


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
    # erf, and the constants of the tanh form, are good to 1e-8.
    np.testing.assert_allclose(layer(x), expected, rtol=1e-6 if "gelu" in name else 1e-11)


def test_projection_takes_any_rank(rng):
    layer = Projection(5, use_bias=True)
    x = rng.normal(size=(2, 3, 4, 6)).astype("float32")
    y = layer(x)
    layer.bias.assign(rng.normal(size=5))
    for given in (x, x[0], x[0, 0], np.zeros((0, 6), "float32")):
        expected = given @ np.asarray(layer.kernel).T + np.asarray(layer.bias)
        np.testing.assert_allclose(layer(given), expected, atol=1e-5)
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
